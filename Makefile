# Everything runs in .venv; `make setup` makes it, and every other target does so when it has to.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH ?= $(shell grep '^torch==' constraints.txt)  # another build: make setup TORCH="torch==2.13.0 --index-url ..."
EXTRAS ?= dev,bench,trackers,docs
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup quickstart test lint bench docs help
.DEFAULT_GOAL := help

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 20

setup: $(STAMP) ## Make .venv and install what was tested (skipped when up to date).

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Sawyer needs Python 3.11 or newer: install it, or say make setup PYTHON=/path/to/python3." >&2; exit 2; }
	@echo "Setting up .venv with $$($(PYTHON) --version) and the versions in constraints.txt (a few minutes, once)."
	@$(PYTHON) -m venv .venv
	@echo "  1/2 $(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@echo "  2/2 Sawyer with its extras: $(EXTRAS)"
	@grep -v '^torch==' constraints.txt > .venv/constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .venv/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

quickstart: setup ## Run the whole workflow on a real 135M model and open its report.
	@echo "Running recipes/quickstart.yaml: instruction tuning, reward model, online DPO, evaluation, report."
	@$(BIN)/sawyer run quickstart --open

test: setup ## Run the test suite (ARGS="tests/models -k gguf" narrows it).
	@echo "Running the tests in $(JOBS) processes of one thread each."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup ## Check style, formatting and types.
	@echo "Checking with ruff (lint and format) and mypy."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup ## Measure training against TRL, scoring and generation against transformers and CTranslate2.
	@echo "Measuring against TRL, transformers and CTranslate2; each benchmark prints its figures and the command that made them."
	@$(BIN)/python -m benchmarks $(ARGS)

docs: setup ## Build the documentation into site/.
	@echo "Building the documentation into site/."
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
