# What a person types. Each target makes .venv and installs what it needs by itself.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := tests/peers/node_oidc_provider
AXE := tests/web/axe
JOBS ?= 4
# Vaults of tests are made by the thousand and their commits are durable: in memory, where there is enough, none waits for a disk.
IN_MEMORY := $(shell d=/dev/shm; test -w $$d && test "$$(df -Pk $$d | awk 'NR==2 {print $$4}')" -gt 4000000 \
	&& ! mount | grep -q " $$d .*noexec" && echo $$d)

.DEFAULT_GOAL := help
.PHONY: help setup demo examples test check bench serve prove peers format clean

help: ## Show what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## Make .venv with everything that the other targets need

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) (about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' \
		>$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@touch $(READY)

demo: $(READY) ## Show the main job on a real authorization server (DEMO_HEADLESS=1: without a browser)
	@$(BIN)/python examples/demo.py

examples: $(READY) ## Show agents with many users, agents written for AgentCore, and the labs
	@$(BIN)/python examples/agent_over_http.py
	@$(BIN)/python examples/agent_over_sse.py
	@$(BIN)/python examples/twenty_steps.py --headless
	@$(BIN)/python examples/github_agent/run.py
	@$(BIN)/python examples/labs/run.py

test: $(READY) peers ## Run every test, and write the coverage data that `make check` judges
	@$(BIN)/coverage erase
	@$(if $(IN_MEMORY),PYTEST_DEBUG_TEMPROOT=$(IN_MEMORY)) $(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal \
		-o tmp_path_retention_policy=failed

check: $(READY) ## Lint, types, architecture, and the coverage gate on what `make test` wrote
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -q tests/test_architecture.py
	@$(BIN)/coverage combine --quiet --keep 2>/dev/null || true
	@$(BIN)/coverage report

bench: $(READY) ## Measure everything, in about 25 minutes (QUICK=1: only see that it runs, in two)
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

serve: $(READY) ## Serve MCP on stdin and stdout
	@$(BIN)/mcp-identity serve

prove: $(READY) peers ## Prove more than a change needs, in some hours; it goes on where it was broken off (ONLY="PART …", TABLE=1)
	@JOBS=$(JOBS) $(BIN)/python benchmarks/prove.py $(if $(TABLE),--table) $(if $(ONLY),--only $(ONLY))

peers: ## Install the Node authorization server and the accessibility rules that some tests need
	@if command -v npm >/dev/null 2>&1; then \
		test -d $(PEERS)/node_modules/oidc-provider || npm ci --prefix $(PEERS) --no-audit --no-fund --loglevel=error; \
		test -d $(AXE)/node_modules/axe-core || npm ci --prefix $(AXE) --no-audit --no-fund --loglevel=error; \
	else echo "npm is not installed: the tests that need node-oidc-provider or axe will say that they are left out"; fi

format: $(READY) ## Format and mend what can be mended
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) $(PEERS)/node_modules $(AXE)/node_modules .coverage .coverage.* htmlcov .pytest_cache .ruff_cache .hypothesis benchmarks/results
