# `make demo` shows what archsmith does, `make test` runs all tests; both set themselves up.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test fuzz ahead lint env clean

demo: env
	$(BIN)/python examples/demo.py

test: env
	ARCHSMITH_EXPECTS=mlir $(BIN)/python -m pytest -n 2 --dist worksteal

# All passes on a thousand random models of each kind, others than those of the tests; takes a while.
fuzz: env
	$(BIN)/python -m pytest -n 2 -rA --examples 1000 tests/rewrite/test_false_alarms.py

# Compile what changed of the kernels for all targets, and keep the facts that tests look at.
ahead: env
	$(BIN)/python -m pytest -n 2 --update-ahead tests/kernels/test_*ahead.py

# What is quickest comes first.
lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

env: $(VENV)/.ready

# setuptools by itself, since the editable installs build with what is there; then torch, the one
# large download, so that a set-up that is cut off does not fetch it again. The oldest Triton that is
# supported stands beside the newest: tests compile kernels with both.
$(VENV)/.ready: pyproject.toml constraints.txt examples/custom_pass/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "archsmith needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt "setuptools>=77"
	$(BIN)/pip install --constraint constraints.txt torch
	$(BIN)/pip install --constraint constraints.txt --no-build-isolation --editable ".[triton,iree,text,dev]"
	$(BIN)/pip install --no-deps --no-build-isolation --editable examples/custom_pass
	$(BIN)/pip install --no-deps --target $(VENV)/triton-3.6 "triton==3.6.*"
	touch $@

clean:
	rm -rf $(VENV) build
