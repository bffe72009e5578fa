# Everything runs in .venv, made with `python3 -m venv` and pip from the hashed locks. A machine
# with Python 3.11 or newer and make needs nothing else. Each stamp file in .venv says that a step
# is done, so that a second `make` starts at once.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# How many test processes; the browser and the model want a core each.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet \
	--generate-hashes --no-emit-index-url --no-build --custom-compile-command "make lock" \
	--overrides requirements/overrides.txt

.DEFAULT_GOAL := help
.PHONY: help demo up test check format bench docs lock upgrade clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Told to the demo, so that the time it prints includes the installation.
demo: export TOCSIN_DEMO_SINCE := $(if $(filter demo,$(MAKECMDGOALS)),$(shell date +%s.%N))
demo: $(VENV)/.runtime ## Try Tocsin: a real model, recorded agent runs, the dashboard (ARGS=--once checks itself)
	@$(BIN)/tocsin demo $(ARGS)

up: $(VENV)/.runtime ## Start Tocsin with ./tocsin.toml or the defaults
	@$(BIN)/tocsin up $(ARGS)

test: check ## Run make check, then every test (ARGS="-k word" for some)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/.dev ## Format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Put the code into the one format and mend what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure; prints the tables of docs/performance.md
	$(BIN)/python bench/gateway.py $(ARGS)
	$(BIN)/python bench/store.py $(ARGS)

docs: $(VENV)/.dev ## Write the pages that are made from the code
	$(BIN)/python -m tocsin.config.document docs/configuration.md
	$(BIN)/python -m tocsin.cli.document docs/cli.md

lock: $(VENV)/.dev ## Resolve pyproject.toml into the two lock files
	$(COMPILE) --extra demo --group build \
		--overrides requirements/overrides-runtime.txt -o requirements.lock
	$(COMPILE) --extra demo --extra postgres --group build --group dev \
		--constraints requirements.lock -o requirements-dev.lock

upgrade: COMPILE += --upgrade
upgrade: lock ## The same, with the newest versions that pyproject.toml allows

clean: ## Remove what was made here; recorded data (.tocsin) stays
	rm -rf $(VENV) .tocsin-demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"Tocsin needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# --no-deps: a lock is complete, and pip must not look for what it leaves out on purpose.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (about 200 MB, once) ..."
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
