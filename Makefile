# Every target sets up what it needs in $(VENV), once. Needs make and Python 3.11 or newer, nothing else.
#
#   make demo   make test   make test-slow   make lint   make options   make types   make imports   make format   make wheel   make clean
#
# PYTHON=... chooses the interpreter, VENV=... the environment's folder, TESTS=... what `make test` runs,
# PYTEST_OPTIONS=... what pytest gets besides.

SHELL := /bin/bash
VENV ?= .venv
TESTS ?=
PYTEST_OPTIONS ?=
# The first of these that is new enough; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test test-slow options lint types imports format wheel constraints setup setup-dev setup-all clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

# Three stamps: what the compiler needs, what the tests need, and PyTorch, which is large and which few things need.
setup: $(VENV)/.core
setup-dev: $(VENV)/.dev
setup-all: $(VENV)/.all

$(VENV)/.core: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer found: say where it is with make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: choose another with make PYTHON=/path/to/python3" >&2; exit 1; }
	@[ -L mcompiler/passes ] && [ -L mcompiler/targets ] || \
		{ echo "mcompiler/passes and mcompiler/targets are no symbolic links: clone again with git config core.symlinks true" >&2; exit 1; }
	@echo "setting up $(VENV) (once)"
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "adding what the tests need"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.all: $(VENV)/.dev
	@echo "adding PyTorch and what the benchmarks need"
	@$(PIP) --editable '.[dev,admm,benchmarks]'
	@touch $@

demo: setup
	@$(BIN)/mcompiler demo

# The quick suite. Tests that need PyTorch are skipped where it is not installed (make setup-all).
test: setup-dev
	@$(BIN)/python -m pytest -n auto -m "not slow" --durations=10 $(PYTEST_OPTIONS) $(TESTS)

test-slow: setup-all
	@$(BIN)/python -m pytest -n auto -m slow $(PYTEST_OPTIONS) $(TESTS)

# The options of passes for the command line, from the fields of the passes.
options: setup-dev
	@$(BIN)/python -c "from mcompiler.cli.options import write_options; write_options()"

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# With PyTorch: without it, its classes would be unknown to the type checker.
types: setup-all
	$(BIN)/mypy

imports: setup-dev
	$(BIN)/lint-imports --no-cache

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel is built from the sdist, so that the sdist is known to be whole.
wheel: setup-dev
	$(BIN)/python -m build --outdir dist .

# The newest versions that the ranges of pyproject.toml allow, direct and transitive, from a fresh environment. PyTorch
# stays at the version that constraints.txt names: edit its line to move it. What it adds for GPUs, it pins itself.
constraints:
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer found: say where it is with make PYTHON=/path/to/python3" >&2; exit 1; }
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && "$(PYTHON)" -m venv "$$fresh/venv" && \
		grep '^torch==' constraints.txt > "$$fresh/held" && \
		"$$fresh/venv/bin/python" -m pip install --quiet --constraint "$$fresh/held" --editable '.[dev,admm,benchmarks]' && \
		"$$fresh/venv/bin/python" -m pip freeze --all --exclude pip --exclude-editable > "$$fresh/found" && \
		{ sed '/^[^#]/,$$d' constraints.txt; sed 's/ @ .*//; s/+[a-z0-9.]*$$//; /^nvidia-/d; /^cuda-/d; /^triton=/d' "$$fresh/found"; \
		grep ' ; python_version' constraints.txt; } \
		> "$$fresh/new" && cp "$$fresh/new" constraints.txt

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
