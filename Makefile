# Needs make and Python 3.11 or newer; everything else is installed into .venv.
# Another interpreter: make demo PYTHON=/path/to/python3.12 (after `make clean`, if there is a .venv already).

ifeq ($(origin PYTHON), undefined)
  usable := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
  PYTHON := $(shell for python in python3.11 python3 python; do \
    $$python -c '$(usable)' 2>/dev/null && echo $$python && break; done)
endif

SHELL := bash
.SHELLFLAGS := -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One line for each package that is fetched, instead of all that pip says.
BRIEFLY := awk '/(Downloading|Using cached|Processing) .*\.whl/ && !/metadata/ { sub(/^ */, "  "); sub(/ \(from.*/, ""); print } \
  /^Installing/ { print "  Installing them" } { fflush() }'
STEP := @printf '\n==> %s\n'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-all lint setup clean

help:
	@echo 'make demo      train a digit classifier from its ONNX file; writes out/'
	@echo 'make test      lint, then run every test, and a quarter of the cases of the ONNX backend suite'
	@echo 'make test-all  the same with all cases of that suite'
	@echo 'make lint      ruff and mypy only'
	@echo 'make setup     only install what development needs, into $(VENV)'
	@echo 'make clean     remove everything that make made, $(VENV) too'

demo: $(VENV)/demo.installed
	$(STEP) 'Train models/digits.onnx on ONNX Runtime'
	@$(BIN)/python models/train_digits.py

test: lint
	$(STEP) 'Run the tests'
	@$(BIN)/pytest -n 2 --dist worksteal

test-all: export ONNXGRAD_BACKEND_SUITE := all
test-all: test

# The folders at the top become one package only when installed, so mypy reads the wheel, which also shows that the wheel
# is complete.
lint: $(VENV)/test.installed
	$(STEP) 'Check the style (ruff)'
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	$(STEP) 'Build the wheel and check its types (mypy --strict)'
	@rm -rf build
	@$(PIP) install --quiet --no-deps --target build/typecheck .
	@cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
	  --strict --package onnxgrad

setup: $(VENV)/test.installed

clean:
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each extra: installed once, and again when pyproject.toml changes.
$(VENV)/demo.installed: pyproject.toml | $(VENV)/created
	$(STEP) 'Install onnxgrad[demo] into $(VENV)'
	@$(PIP) install --editable '.[demo]' | $(BRIEFLY)
	@touch $@

$(VENV)/test.installed: pyproject.toml | $(VENV)/created
	$(STEP) 'Install onnxgrad[test] into $(VENV): PyTorch is large, so the first time takes a while'
	@$(PIP) install --editable '.[test]' | $(BRIEFLY)
	@touch $@ $(VENV)/demo.installed

$(VENV)/created:
	@test -n '$(PYTHON)' || { echo 'Found no Python 3.11 or newer with venv and ensurepip; name one: make … PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(STEP) 'Create $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@
