# make repro   set up and run the pipeline on the embedded default
# make test    set up and run the tests, in two processes (JOBS=4: in so many; TESTS=tests/base: those; --device cuda: there)
# make once    what a change must pass and is slow for its worth: real compilation, each benchmark at its tiny size
# make seeds   three seeds of it, in clones of the last commit; figures in results/orl (SEEDS=1: that one)
# make faces3d the same on generated heads of known pose; figures in results/faces3d
# make check   linters, types, and whether dvc.lock is of this code
# make bench   benchmarks, each against a named baseline

PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
# most modules of most packages are never imported: each is compiled when it is, not all of them ahead
export PYTHONDONTWRITEBYTECODE :=

SEEDS ?= 0 1 2
JOBS ?= 2
# A test computes in one thread, and one that waits sleeps: threads that spin take the time of the other process.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest

.PHONY: repro test once seeds faces3d check bench clean

repro: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro
	@$(BIN)/uld table
	@echo "open report/index.html"

test: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) -n $(JOBS) --dist loadgroup $(TESTS)

once: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) --compile --benchmarks -m "compiles or benchmark" \
		tests/test_benchmarks.py tests/diffusion/test_compiled.py

seeds faces3d: .venv/ready
	for seed in $(SEEDS); do PATH="$(CURDIR)/$(BIN):$$PATH" sh results/run.sh $(DATA) $$seed || exit 1; done
	@$(BIN)/uld table ablation --metrics results/$(DATA)

seeds: DATA := orl
faces3d: DATA := faces3d

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[faces,dev]'
	touch $@

clean:
	rm -rf .venv .scratch report artifacts dvc_plots build
