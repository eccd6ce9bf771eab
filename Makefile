# What a fresh machine needs is Python 3.11 or newer, make and the package index; the rest is set up here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DEMO_SIZE_MB ?= 100
RUNS ?= 100
LANES ?= 4
ROUNDS ?= 5
OUT ?= var/bench

.DEFAULT_GOAL := help
.PHONY: help demo run test chaos bench screenshots system-deps format lint types check-migrations tests requirements clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(VENV)/.run  ## pull a 100 MiB file from an agent, here and now (DEMO_SIZE_MB=…)
	@$(BIN)/python demo.py --size-mb $(DEMO_SIZE_MB)

run: $(VENV)/.run  ## start the server on port 8000 (PORT=…)
	@$(BIN)/python manage.py migrate --verbosity 0
	@echo "Add a first client and an API token, in another terminal of this folder:"
	@echo "    $(BIN)/python manage.py add_client client1 | $(BIN)/python -m agent enrol --server ws://localhost:$(PORT)"
	@echo "    $(BIN)/python manage.py add_api_token operator"
	@echo "Stop the server with Ctrl-C."
	@$(BIN)/daphne --bind 0.0.0.0 --port $(PORT) --access-log var/access.log silentmode.asgi:application || \
		{ echo "The server has stopped. Is port $(PORT) taken? make run PORT=8001"; exit 1; }

test: format lint types check-migrations tests  ## everything that must be green before a change lands

format: $(VENV)/.dev  ## is the code formatted? (ruff format . does it)
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## strict mypy; the agent also as on Windows
	$(BIN)/mypy .
	$(BIN)/mypy --platform win32 agent

check-migrations: $(VENV)/.dev
	SILENTMODE_DATA_DIR=$(VENV)/check $(BIN)/python manage.py makemigrations --check --dry-run

tests: $(VENV)/.dev  ## all tests, with coverage
	$(BIN)/python -m pytest -n auto --dist load --cov --cov-report=term $(PYTEST)

chaos: $(VENV)/.dev  ## faults at random moments of real transfers (RUNS=… SEED=… FAULTS=a,b LANES=… ONLY=…)
	@$(BIN)/python -m tests.chaos --runs $(RUNS) --lanes $(LANES) $(if $(SEED),--seed $(SEED)) \
		$(if $(FAULTS),--faults $(FAULTS)) $(if $(ONLY),--only $(ONLY)) $(if $(KEEP),--keep) $(if $(GO_ON),--go-on)

bench: $(VENV)/.dev  ## speed and cost, in turn with cp, scp and rsync (CASES=a,b ROUNDS=… QUICK=1 OUT=…)
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS) --output $(OUT) \
		$(if $(CASES),--cases $(CASES)) $(if $(QUICK),--quick)

screenshots: $(VENV)/.dev  ## pictures of the console for the README (ALL=folder: of every page, light and dark, wide and phone)
	@$(BIN)/python -m tests.screenshots $(if $(ALL),--all $(ALL))

system-deps:  ## what some tests and benchmarks use and skip without, from Debian
	apt-get update --quiet
	apt-get install --yes --no-install-recommends postgresql redis-server strace util-linux \
		nginx-light openssl chromium openssh-server openssh-client rsync eatmydata

requirements: $(VENV)/.dev  ## pin the newest versions that requirements*.in allow
	for name in agent/requirements requirements requirements-dev; do \
		$(BIN)/pip-compile --quiet --upgrade --strip-extras --no-header --annotation-style=line \
			--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
			--output-file $$name.txt $$name.in || exit 1; \
	done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Silentmode needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt agent/requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:  ## remove what was set up (not var/, where the data is)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
