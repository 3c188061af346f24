# Everything here needs Python 3.11 or newer and make; wheels come from your package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
DATA_DIR ?= .neolayer
BLOCKS ?=
PYTEST ?= $(BIN)/python -m pytest
WORKERS ?= 2

.PHONY: demo up test lint format bench bench-long engines test-engines test-faults test-security lock schema-dump sbom clean
.DEFAULT_GOAL := demo

# Set up, bring the whole layer up, let a chain flow through it, print what landed, stop.
demo: $(VENV)/.runtime
	$(BIN)/neolayer demo --data-dir $(DATA_DIR) $(if $(BLOCKS),--blocks $(BLOCKS))

# The same layer, kept running until Ctrl-C.
up: $(VENV)/.runtime
	$(BIN)/neolayer up --data-dir $(DATA_DIR)

# Everything that needs wheels only; each worker starts engines of its own.
test: $(VENV)/.dev
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "not engines and not faults and not security"

# Kills at every named point and at random moments: longer, and apart; ends with a line of JSON.
test-faults: $(VENV)/.dev
	@rm -rf .pytest_cache/v/faults
	$(PYTEST) -m "faults and not engines"
	@$(BIN)/python tools/fault_figures.py

# Every attack on every row, and every guard taken away in turn; ends with a line of JSON.
test-security: $(VENV)/.dev
	@rm -rf .pytest_cache/v/security
	$(PYTEST) -m security
	@$(BIN)/python tools/security_figures.py

# Style, types, floors, SQL.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m neolayer.schema.lint

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Short form of every figure we claim, each against its peer; make bench-long for the long one.
bench: $(VENV)/.dev
	$(BIN)/python -m bench

bench-long: $(VENV)/.dev
	$(BIN)/python -m bench --long

# Servers that are no wheels (Debian's PostgreSQL and Redis, anvil), into a cache outside the tree.
engines:
	bash tools/engines/install.sh

test-engines: $(VENV)/.dev
	$(PYTEST) -m engines

# Renew the lock files after a change of pyproject.toml.
lock: $(VENV)/.dev
	$(BIN)/python tools/lock.py

# A list of everything an installation from the lock may contain, as CycloneDX JSON.
sbom: $(VENV)/.dev
	$(BIN)/python tools/sbom.py --output sbom.json

# Renew the committed picture of what all migrations make.
schema-dump: $(VENV)/.dev
	$(BIN)/python -m neolayer.schema.dump --write

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; say make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.python
	@test -f $(VENV)/.dev || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@test -f $(VENV)/.dev || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/.python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@ $(VENV)/.runtime
