# make repro   set up and run the pipeline on the embedded default
# make test    set up and run the tests, in two processes (JOBS=4: in so many; TESTS=tests/base: those; --device cuda: there)
# make once    what a change must pass and is slow for its worth: real compilation, each benchmark at its tiny size, preset `paper`
# make study NAME=ablation                  run the tables of a paper, in studies/ablation
# make study NAME=ablation SEEDS="0 1 2"    with several seeds; figures in studies/ablation/seeds.csv
# make copies  dvc.yaml, params.yaml and DVC's settings of the root to the studies and to what `uld new` writes
# make check   linters, types, and whether dvc.lock is of this code
# make bench   benchmarks, each against a named baseline

PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
# most modules of most packages are never imported: each is compiled when it is, not all of them ahead
export PYTHONDONTWRITEBYTECODE :=

JOBS ?= 2
# A test computes in one thread, and one that waits sleeps: threads that spin take the time of the other process.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest

# what a study's data are made of, where they are not in Git
DATA_faces3d := data/raw/faces3d/faces.csv
STUDY := cd studies/$(NAME) && PATH="$(CURDIR)/$(BIN):$$PATH"
comma := ,
space := $() $()

.PHONY: repro test once study copies check bench clean

repro: .venv/ready
	@echo "40 stages, about 12 minutes on two idle cores; what is up to date is not run again."
	@begun=$$(date +%s) && PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro && $(BIN)/uld table && \
	    echo "$$(( ($$(date +%s) - begun + 30) / 60 )) minutes. Open report/index.html"

test: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

once: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) -n $(JOBS) --dist loadfile --compile --benchmarks --paper -m "compiles or benchmark or paper" \
		tests/test_benchmarks.py tests/diffusion/test_compiled.py tests/pipeline/test_paper.py tests/pipeline/test_mallis.py

study: .venv/ready $(DATA_$(NAME))
	@test -n "$(NAME)" -a -f "studies/$(NAME)/params.yaml" || { \
	    echo "make study NAME=one of: $(notdir $(patsubst %/,%,$(wildcard studies/*/)))" >&2; exit 2; }
ifdef SEEDS
	@# runs of the queue see what is in Git only: data that are not, they find by their full path
	$(STUDY) dvc exp run --queue -S seed=$(subst $(space),$(comma),$(strip $(SEEDS))) \
	    $(if $(DATA_$(NAME)),-S source="$(patsubst %/,%,$(dir $(CURDIR)/$(DATA_$(NAME))))")
	$(STUDY) dvc exp run --run-all
	$(STUDY) uld table --experiments --write seeds.csv
else
	$(STUDY) dvc repro
	@$(STUDY) uld table
endif

data/raw/faces3d/faces.csv: | .venv/ready
	$(BIN)/uld faces3d data/raw/faces3d --count 1000

copies:
	for file in studies/*/dvc.yaml uld/commands/project/graph.yaml; do cp dvc.yaml $$file; done
	cp params.yaml uld/commands/project/params.yaml
	cp .dvc/config uld/commands/project/config
	cp .dvcignore uld/commands/project/dvcignore
	cp .dvc/plots/*.json uld/commands/project/plots

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
	@echo "Setting up .venv takes a minute or two."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[faces,dev]'
	touch $@

clean:
	rm -rf .venv .scratch report artifacts dvc_plots build
