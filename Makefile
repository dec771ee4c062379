.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DeepSpeed is built from source by pip; it needs torch at run time, not to be installed.
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install -q -c constraints.txt

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	touch $@

setup: $(VENV)/ready  ## make .venv with the pinned set

demo: $(VENV)/ready  ## run the whole chain on the embedded world
	$(BIN)/python -m stages.pipeline

test: $(VENV)/ready  ## run the test suite
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -x -q -n 2 --dist loadfile

lint: $(VENV)/ready  ## style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: help setup demo test lint
