# make repro   set up and run the pipeline on the embedded default
# make test    set up and run the tests
# make faces3d the same rows on generated heads of known pose, in a clone of the last commit; figures in results/faces3d
# make check   linters, types, and whether dvc.lock is of this code
# make bench   benchmarks, each against a named baseline

PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1

HEADS := build/faces3d

.PHONY: repro test faces3d check bench clean

repro: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro
	@$(BIN)/uld table
	@echo "open report/index.html"

test: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest

faces3d: $(HEADS)/ready
	cd $(HEADS) && PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro
	mkdir -p results/faces3d
	rm -rf results/faces3d/metrics
	cp -r $(HEADS)/metrics $(HEADS)/params.yaml results/faces3d
	@$(BIN)/uld table ablation --metrics results/faces3d/metrics
	@echo "open $(HEADS)/report/index.html; rm -r $(HEADS) to begin anew, with the last commit"

$(HEADS)/ready: .venv/ready
	rm -rf $(HEADS)
	git clone --quiet . $(HEADS)
	$(BIN)/uld faces3d $(HEADS)/data/raw/faces3d --count 1000
	cd $(HEADS) && "$(CURDIR)/$(BIN)/uld" preset faces3d --write
	touch $@

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# the committed figures come from the committed code and params
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro --dry --allow-missing | grep 'up to date'

bench: .venv/ready
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("uld needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[faces,dev]'
	touch $@

clean:
	rm -rf .venv .scratch report artifacts dvc_plots build
