# Every command sets up what it needs in $(VENV), once.
PYTHON ?= python3.11
# Test processes that run side by side; 0 runs everything in one.
JOBS ?= 2
# Further arguments for `make demo` and for pytest.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet \
	--disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
BACKENDS := $(VENV)/.installed-backends

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast test-slow test-backends lint format docs lock \
	clean

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

demo: $(DEMO) ## prune a small network, write its TFLite file, show the result
	@KERAS_BACKEND=tensorflow $(BIN)/keras-swd demo $(ARGS)

test: test-fast test-slow ## run the whole test suite on TensorFlow

test-fast: $(DEV) ## run the tests that take seconds, on TensorFlow
	@echo "Running the fast tests on tensorflow"
	@KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow" $(ARGS)

test-slow: $(DEV) ## run the tests that train, on TensorFlow
	@echo "Running the slow tests on tensorflow"
	@KERAS_BACKEND=tensorflow $(PYTEST) -m slow $(ARGS)

test-backends: $(DEV) $(BACKENDS) ## run the fast core tests on PyTorch and JAX
	@for backend in torch jax; do \
		echo "Running the fast core tests on $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) tests \
			-m "not slow and not tensorflow" $(ARGS); \
	done
	@echo "Running several processes on jax"
	@KERAS_BACKEND=jax $(PYTEST) tests/end_to_end/test_many_machines.py

lint: $(DEV) ## check style, types and the direction of imports
	@echo "Checking style, types and imports"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Material announces its successor at length, whatever is built.
docs: $(DEV) ## build the documentation in site/, warnings as errors
	@echo "Building the documentation"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A version such as 2.13.0+cpu names one build; the part after + is dropped.
lock: $(DEV) $(BACKENDS) ## write the installed versions to constraints.txt
	@echo "Writing constraints.txt"
	@{ echo "# Written by 'make lock'. Versions the tests have passed with."; \
		$(BIN)/python -m pip freeze --all --exclude-editable \
			--exclude keras_swd --exclude pip \
		| sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+)(\+[^ ]*)?$$/\1/p'; \
	} > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(DEMO) $(DEV) $(BACKENDS)

clean: ## delete what was built or cached; the environment stays
	@rm -rf build dist site *.egg-info keras_swd_demo
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find docs keras_swd tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing `venv` puts in place.
$(BIN)/pip:
	@echo "Making the environment $(VENV) with $(PYTHON)"
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) was not found; name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing keras_swd for the demo"
	@$(INSTALL) -e ".[demo,tflite]"
	@touch $@

# This includes what the demo needs.
$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing keras_swd and the tools for developers"
	@$(INSTALL) -e ".[dev]"
	@touch $(DEMO) $@

$(BACKENDS): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing PyTorch and JAX"
	@$(INSTALL) -e ".[backends]"
	@touch $@
