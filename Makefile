# What one does with this project. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := .tools

.DEFAULT_GOAL := help
.PHONY: help demo test chaos crowd fuzz lint manifests format run services probe lock lock-manifests rules clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## Start a local VectorCare and the receiver, and watch 40 broadcasts become trips
	@$(BIN)/vectorcare-receiver demo

test: $(INSTALLED) services ## Run all tests, with a real RabbitMQ and PostgreSQL
	@# The lives by themselves: hypothesis tries constants of whatever modules are loaded, so beside others they differ.
	@$(BIN)/pytest -n 2 --dist load tests/lives
	@$(BIN)/pytest -n 2 --dist loadfile --ignore tests/lives

chaos: $(INSTALLED) services ## Break everything under load; ARGS="--fault broker_killed --seconds 10 --rate 60" or "--mixed 10"
	@$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(INSTALLED) services ## Many more random lives of assignments than make test has; more still: make fuzz FUZZ=60
	@RECEIVER_TEST_FUZZ=$(or $(FUZZ),6) $(BIN)/pytest -n 2 --dist load tests/lives

lint: $(INSTALLED) ## Style, types, layers, dependencies
	@$(BIN)/ruff format --check --quiet . || { echo "make format would change these files:"; $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry . 2>&1

manifests: $(INSTALLED) $(TOOLS)/.installed ## Hold every object of k8s/, the compose file and the AsyncAPI document to their schemas
	@MANIFEST_TOOLS=$(TOOLS) $(BIN)/pytest -q tests/manifests

rules: ## Make the Kubernetes object of the alert rules from monitoring/alerts.yaml
	@{ printf '# Made by make rules from alerts.yaml.\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: vectorcare-receiver\nspec:\n'; \
		sed -n '/^groups:/,$$p' monitoring/alerts.yaml | sed 's/^/  /'; } >monitoring/prometheus-rule.yaml

format: $(INSTALLED) ## Put the code into its style
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

run: $(INSTALLED) ## Run ingress and workers with ./receiver.toml
	@$(BIN)/vectorcare-receiver run

probe: $(INSTALLED) services ## Time to accept, p50 and p99, on both brokers
	@$(BIN)/python -m bench.probe

crowd: $(INSTALLED) services ## 1,000 requests while everything fails, pause and limits under load, a silent API; with times
	@CROWD=full $(BIN)/pytest -q tests/crowd

services: ## Make sure that there is a RabbitMQ and a PostgreSQL for the tests
	@sh tests/services.sh

lock: $(INSTALLED) ## Pin the newest versions that pyproject.toml allows, with hashes
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		--strip-extras --extra traces --output-file requirements.lock pyproject.toml
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		--strip-extras --allow-unsafe --extra dev --output-file requirements-dev.lock pyproject.toml

lock-manifests: $(INSTALLED) ## Pin the tools of `make manifests`
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		--strip-extras --allow-unsafe --output-file tests/manifests/requirements.lock tests/manifests/requirements.in

clean: ## Remove what make has made
	rm -rf $(VENV) $(TOOLS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(INSTALLED): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV) (once)..."
	@$(PYTHON) -m venv $(VENV) || { echo "This Python can't make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS)/.installed: tests/manifests/requirements.lock tests/manifests/kubectl.lock tests/manifests/package-lock.json tests/manifests/tools.sh
	@echo "Installing kubectl, kubernetes-validate, checkov, hadolint into $(TOOLS) (once)..."
	@PYTHON=$(PYTHON) sh tests/manifests/tools.sh $(TOOLS)
	@touch $@
