# All targets work in a fresh clone; they need Python 3.11, git and make. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup installed hooks reproduce run-reproduce weights run-weights run-notebooks rehearse run-rehearse
.PHONY: test check format pytest nbtest smoke readme notebooks graph docs sync lock clean

SCALE ?= toybox
DATA ?=
CORES ?= 2
REPORTS ?= reports
ARTIFACTS ?= artifacts
WEIGHTS ?= weights
ARGS ?=
WORKERS ?= 2
PYTEST_ARGS ?=
PROFILE ?=
GPUS ?=
MEMORY ?=

ifndef PYTHON
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13; do \
  "$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$p; break; }; done)
endif
ifeq ($(strip $(PYTHON)),)
$(error Python 3.11 or newer is needed and was not found: install it, or set PYTHON=/path/of/python)
endif

BIN := .venv/bin
WITH_LOCK := $(PYTHON) cgsaliency/reproduce/with_lock.py
# the environment belongs to its lock files and its folder: a changed lock file or a moved folder causes a new one
VENV_STAMP := .venv/.locked-$(shell { pwd; cat requirements.lock oracles.lock; } | cksum | tr ' ' '-')
export PIP_DISABLE_PIP_VERSION_CHECK := 1

define step
@from=$$SECONDS; echo "=== $(1)"; \
  if $(2); then echo "=== $(1): passed, $$((SECONDS - from)) s"; \
  else echo "=== $(1): FAILED after $$((SECONDS - from)) s" >&2; exit 1; fi
endef

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo; echo "make reproduce [SCALE=smoke|toybox|sample|paper|FILE.yaml] [DATA=folder] [CORES=2] [REPORTS=reports]"
	@echo "  [ARTIFACTS=artifacts] [WEIGHTS=weights|none] [PROFILE=slurm|kubernetes|generic] [GPUS=number]"
	@echo "  [MEMORY=GiB] [ARGS='--dry-run']"

setup:  ## create .venv from requirements.lock (all targets do so once)
	@$(WITH_LOCK) .make/setup.lock $(MAKE) --no-print-directory -s installed

installed: .venv/.linked

$(VENV_STAMP):
	@echo "=== installing requirements.lock into .venv (about 6 GB, several minutes)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -qq --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --require-hashes --no-deps --no-build-isolation --use-pep517 -r oracles.lock
	touch $@

.venv/.linked: $(VENV_STAMP) setup.py settings.ini
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --use-pep517 -e .
	@$(MAKE) --no-print-directory -s hooks
	touch $@

hooks:  ## make git check commits and merge notebooks by cells (part of the set-up; no effect outside a git checkout)
	@if [ "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$$(pwd -P)" ]; then \
	  already=$$(git config --get core.hooksPath || true); \
	  if [ -z "$$already" ] || [ "$$already" = .githooks ]; then git config core.hooksPath .githooks; \
	  else echo "git hooks are not changed: core.hooksPath is $$already"; fi; \
	  git config merge.nbdev-merge.name 'notebooks, by cells'; \
	  git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P'; \
	fi || echo "git hooks are not set: the configuration of this checkout cannot be written"

# Snakemake's lock remains after a killed run; that of cgsaliency/reproduce/with_lock.py does not. A second run waits
# for the first.
reproduce: setup  ## make all tables and figures, in reports/<scale>; resumes a stopped run
	@$(WITH_LOCK) .make/reproduce-$(notdir $(basename $(SCALE))).lock $(MAKE) --no-print-directory -s run-reproduce

SNAKEMAKE = $(BIN)/python -m snakemake --nolock --rerun-incomplete --quiet host reason
CONFIG = --config "scale=$(SCALE)" "reports=$(REPORTS)" "artifacts=$(ARTIFACTS)" "weights=$(WEIGHTS)" \
  $(if $(DATA),"data=$(DATA)")
# a cluster's profile decides about cores and resources
WORKFLOW = $(SNAKEMAKE) $(if $(PROFILE),--profile profiles/$(PROFILE) $(ARGS),--cores $(CORES) $(ARGS) $(RESOURCES))

# As many notebooks run in parallel as CORES, GPUs and memory allow; GPUS and MEMORY replace the detected values. On a
# cluster the scheduler decides.
RESOURCES = --resources $$($(BIN)/python -m cgsaliency.reproduce.machine_resources "$(GPUS)" "$(MEMORY)")

# Notebooks are forks of a server that has imported their libraries. It lives as long as the run.
run-reproduce:
	@$(if $(PROFILE)$(findstring dry-run,$(ARGS)),,$(BIN)/python -m cgsaliency.reproduce.notebook_server )\
	  $(MAKE) --no-print-directory -s run-notebooks

run-notebooks:
	@$(WORKFLOW) $(CONFIG)

# A section runs after those that it builds on; as many run at once as CORES allows.
weights: setup  ## train models whose weights are missing or do not fit, put them into weights/; resumes a stopped run
	@$(WITH_LOCK) .make/reproduce-$(notdir $(basename $(SCALE))).lock $(MAKE) --no-print-directory -s run-weights

run-weights:
	@$(WORKFLOW) $(CONFIG) "put=$(if $(filter none,$(WEIGHTS)),weights,$(WEIGHTS))" -- weights

# DATA is optional: data sets in it are linked, missing ones are synthetic.
# It takes 36 minutes and 7 GiB on 2 cores.
rehearse: setup  ## run all notebooks at the papers' sizes on a few items, without a GPU; resumes a stopped run
	@$(WITH_LOCK) .make/rehearse.lock $(MAKE) --no-print-directory -s run-rehearse

REHEARSAL ?= .make/rehearsal
run-rehearse: export OMP_NUM_THREADS := 1
run-rehearse:
	@$(BIN)/python tools/rehearse.py draw $(REHEARSAL)/data $(if $(DATA),"$(DATA)")
	@$(MAKE) --no-print-directory -s reproduce SCALE=rehearsal DATA=$(REHEARSAL)/data REPORTS=$(REHEARSAL)/reports \
	  ARTIFACTS=$(REHEARSAL)/artifacts MEMORY=$(or $(MEMORY),16) ARGS='--keep-going $(ARGS)' || \
	  { echo "=== not all notebooks are complete; these failed:" >&2; \
	    find $(REHEARSAL)/reports -name '*.failed.ipynb' >&2; exit 1; }
	@$(if $(findstring dry-run,$(ARGS)),,$(BIN)/python tools/rehearse.py record \
	  $(REHEARSAL)/reports/rehearsal $(REHEARSAL)/artifacts/rehearsal)

test: setup  ## run the four targets below
	$(call step,code names notebooks package and README agree,$(MAKE) --no-print-directory -s check)
	$(call step,pytest,$(MAKE) --no-print-directory -s pytest)
	$(call step,tests in the notebooks,$(MAKE) --no-print-directory -s nbtest)
	$(call step,the reproduction at scale smoke,$(MAKE) --no-print-directory -s smoke)
	@echo "=== all four passed"

# cgsaliency/ is exported from nbs/ and formatted by nbdev; ruff checks it but does not format it.
CODE := nbs tests benchmarks tools data_scripts profiles setup.py

check: setup  ## check code, names and notebooks, and that package and README agree with the notebooks
	@$(BIN)/ruff check --no-cache cgsaliency $(CODE)
	@$(BIN)/ruff format --no-cache --check $(CODE)
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/project/test_names.py
	@tools/check_sync

format: setup  ## sort imports, apply ruff's safe fixes, format (notebooks too), export
	@$(BIN)/ruff check --no-cache --fix --fix-only --select E401,I,UP,F401 $(CODE)
	@$(BIN)/ruff format --no-cache $(CODE)
	@$(BIN)/nbdev_export

pytest nbtest notebooks: export OMP_NUM_THREADS := 1

pytest: setup  ## run the tests in tests/; PYTEST_ARGS='-m "not slow"' skips the slow ones
	@$(BIN)/python -m pytest -q -n $(WORKERS) $(PYTEST_ARGS) tests

# tests/app/test_cli.py executes start_here, with the reports of a run.
nbtest: setup  ## run the tests in the notebooks
	@$(BIN)/nbdev_test --n_workers $(WORKERS) --skip_file_glob start_here.ipynb

smoke: setup  ## run the complete reproduction at the smallest scale
	@$(WITH_LOCK) .make/smoke.lock $(SHELL) -c 'rm -rf .make/smoke && exec $(MAKE) --no-print-directory -s reproduce \
	  SCALE=smoke DATA= REPORTS=.make/smoke/reports ARTIFACTS=.make/smoke/artifacts'

readme: setup  ## write README.md and its images from nbs/index.ipynb
	@rm -f nbs/images/README_*
	@$(BIN)/python -m nbconvert --config tools/readme_config.py --log-level WARN --output README nbs/index.ipynb

notebooks: setup  ## execute all library notebooks in place, clean them, export them
	@$(BIN)/nbdev_export
	@find nbs -name '*.ipynb' -not -path 'nbs/papers/*' -not -name start_here.ipynb \
	  -not -path '*/.ipynb_checkpoints/*' -print0 | sort -z | \
	  xargs -0 -n 1 -P $(WORKERS) $(BIN)/python -m nbconvert --to notebook --execute --inplace --log-level WARN \
	  --ExecutePreprocessor.store_widget_state=False
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export

graph: setup  ## draw the graph of the run for README.md (needs graphviz)
	@$(BIN)/python tools/run_graph.py nbs/images/graph.svg

# The papers' notebooks are those of the last run of SCALE, if any.
docs: setup  ## build the site with all notebooks in _docs/html
	@$(BIN)/python tools/build_site.py _docs $(wildcard $(REPORTS)/$(SCALE))
	@$(BIN)/python tools/check_site.py _docs/html
	@echo "=== open _docs/html/index.html"

# The outputs are those of scale toybox, otherwise of scale sample.
sync: setup  ## copy the outputs of a complete run into the papers' notebooks
	@$(BIN)/python -m cgsaliency.reproduce.sync_outputs $(REPORTS) toybox sample
	@$(BIN)/nbdev_clean

lock:  ## resolve requirements.in into requirements.lock (ARGS=--upgrade allows newer versions)
	@test -x .make/uv/bin/uv || \
	  { $(PYTHON) -m venv --clear .make/uv && .make/uv/bin/python -m pip install --quiet uv==0.13.8; }
	@.make/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" $(ARGS) requirements.in -o requirements.lock

clean:  ## remove the files of tests and builds (not .venv, reports or artifacts)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache _proc _docs .make/smoke .make/uv
	@find nbs cgsaliency tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
