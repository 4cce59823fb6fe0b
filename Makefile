# Everything happens in .venv. The only thing a machine needs is Python 3.11 or later.

HOST ?= 127.0.0.1
PORT ?= 8000
JOBS ?= 3
ARGS ?=

# 3.11 and 3.12 first: the embedded Redis has wheels for those two.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Without bytecode on disk, every process of the house would compile the whole tree at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run test faults bench check
.DEFAULT_GOAL := help

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-9s %s\n' "$$name" "$$text"; done

install: .venv/installed ## Make .venv and install what Netra runs on

run: .venv/installed ## Start everything on this machine (HOST=127.0.0.1 PORT=8000)
	@exec $(BIN)/python manage.py start --host '$(HOST)' --port '$(PORT)'

test: .venv/installed-dev ## Run the tests, with their own PostgreSQL and Redis (JOBS=3 ARGS=)
	@command -v chromium-headless-shell >/dev/null 2>&1 || command -v chromium >/dev/null 2>&1 || $(MAKE) --no-print-directory browser
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

faults: .venv/installed-dev ## Kill, freeze and starve whole houses, and see what survives (half an hour; NIGHTLY=1 is longer)
	status=0; $(BIN)/python -m pytest -n $(JOBS) -m long || status=1; \
	$(BIN)/python -m tests.faults $(if $(NIGHTLY),--nightly) $(ARGS) || status=1; exit $$status

bench: .venv/installed ## Measure a house of its own beside budgets and floors (twenty minutes; ARGS=--quick takes less)
	@$(BIN)/python manage.py benchmark $(ARGS)

check: .venv/installed-dev ## Check format, style, types, floors, settings and migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy netra apps manage.py
	$(BIN)/lint-imports
	$(WITHOUT_STORES) $(BIN)/python manage.py check
	$(WITHOUT_STORES) $(BIN)/python manage.py makemigrations --check --dry-run

# These two look at the code only; a database, even a running one, must not change their answer.
WITHOUT_STORES := env -u DATABASE_URL -u REDIS_URL NETRA_HOME=$(CURDIR)/.netra/none

.PHONY: browser
browser:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing Chromium for the browser tests ..."; \
		apt-get update -qq && for name in chromium-headless-shell chromium; do \
			apt-get install -y -qq --no-install-recommends $$name >/dev/null && break; done; \
	else false; fi || echo "No Chromium: the browser tests are skipped. Install it (Debian: sudo apt-get install chromium-headless-shell)."

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Netra needs Python 3.11 or later, and found none. Install it, or name it: make PYTHON=/path/to/python3"; \
		exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Netra needs Python 3.11 or later, and $(PYTHON) is older or missing. Name another: make PYTHON=/path/to/python3"; \
		exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) cannot make a virtual environment. Install its venv module (Debian: apt-get install python3-venv)."; \
		exit 1; }

.venv/installed: .venv/bin/python requirements.txt constraints.txt
	@echo "Installing what Netra runs on (half a minute the first time) ..."
	@$(PIP) -r requirements.txt || { echo "The installation failed; the reason stands above. Is there a network?"; exit 1; }
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	@echo "Installing the tools for tests and checks ..."
	@$(PIP) -r requirements-dev.txt || { echo "The installation failed; the reason stands above. Is there a network?"; exit 1; }
	@touch $@
