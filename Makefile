# `make demo` shows what archsmith does, `make test` runs all tests; both set themselves up.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint env clean

demo: env
	$(BIN)/python examples/demo.py

test: env
	$(BIN)/python -m pytest -n 2

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(VENV)/.ready

# Torch first, by its constraint: a later version would draw gigabytes for graphics cards.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "archsmith needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt "setuptools>=77" torch
	$(BIN)/pip install --constraint constraints.txt --no-build-isolation --editable ".[torch,dev]"
	$(BIN)/pip install --no-deps --no-build-isolation --editable examples/custom_pass
	touch $@

clean:
	rm -rf $(VENV) build
