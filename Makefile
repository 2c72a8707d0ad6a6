# make quickstart | test | lint: each installs first where that is needed. PYTHON chooses the interpreter of a new .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS := $(VENV)/.installed-clients
# The corpus of the quickstart; empty takes the Python standard library's text.
CORPUS ?=

# Test processes at a time; each has up to four ranks of its own.
WORKERS ?= 2

# Models of the tests are small: more threads cost more than they bring, and nothing is to be fetched.
TEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install install-clients quickstart test test-slow lint clean

help:
	@echo "make install     create $(VENV) with the versions in constraints.txt"
	@echo "make install-clients  and the libraries that use and evaluate released models, which the slow tests need"
	@echo "make quickstart  train, convert and try a small encoder and decoder: runs/quickstart (CORPUS=FILE: on your text)"
	@echo "make test        the tests that need neither a GPU nor minutes"
	@echo "make test-slow   the tests that take minutes"
	@echo "make lint        style and types"
	@echo "make clean       remove $(VENV), caches and runs/quickstart"

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if v >= (3, 11) else f"error: PYTHON=$(PYTHON) is Python {v[0]}.{v[1]}: must be 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

install-clients: $(CLIENTS)

$(CLIENTS): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[dev,clients,eval,ray,wandb]' --constraint constraints.txt
	@touch $@

quickstart: install
	VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH" bash examples/quickstart.sh $(if $(CORPUS),--corpus '$(CORPUS)')

test: install
	$(TEST) -m "not gpu and not slow" --numprocesses $(WORKERS) --dist worksteal

test-slow: install-clients
	$(TEST) -m "slow and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck examples/*.sh examples/*.sbatch .ci/run
	$(BIN)/hadolint Dockerfile

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build runs/quickstart *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
