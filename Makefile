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
.PHONY: help demo test test-all bench lint setup clean

# The benchmark's peers pin other versions of what onnxgrad needs, so each has an environment of its own.
BENCH_VENVS := .venv-bench
WORKLOADS :=
PEERS :=
ROUNDS := 10
comma := ,
BENCH_ENVIRONMENTS := $(basename $(notdir $(wildcard benchmarks/environments/*.txt)))
ifneq ($(PEERS),)
  BENCH_ENVIRONMENTS := $(filter $(subst $(comma), ,$(PEERS)),$(BENCH_ENVIRONMENTS))
endif

help:
	@echo 'make demo      train a digit classifier from its ONNX file; writes out/'
	@echo 'make test      lint, then run every test, and a quarter of the cases of the ONNX backend suite'
	@echo 'make test-all  the same with all cases of that suite'
	@echo 'make bench     measure side by side with the peers; writes benchmarks/RESULTS.md, takes an hour or so'
	@echo '               make bench WORKLOADS=mlp,bert PEERS=onnxgrad,eager ROUNDS=10'
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
test-all: export ONNXGRAD_TRANSFORMS := all
test-all: test

bench: $(VENV)/test.installed $(BENCH_ENVIRONMENTS:%=$(BENCH_VENVS)/%/installed)
	$(STEP) 'Measure side by side'
	@$(BIN)/python -m benchmarks --workloads '$(WORKLOADS)' --peers '$(PEERS)' --rounds $(ROUNDS)

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
	rm -rf $(VENV) $(BENCH_VENVS) benchmarks/.cache build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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

# A peer that can't be installed here is missing from the tables, which say so; the others are measured.
$(BENCH_VENVS)/%/installed: benchmarks/environments/%.txt | $(VENV)/created
	$(STEP) 'Install the peer $* into $(BENCH_VENVS)/$*'
	@rm -rf $(@D)
	@$(BIN)/python -m venv $(@D) \
	  && $(@D)/bin/python -m pip --disable-pip-version-check install --requirement $< | $(BRIEFLY) && touch $@ \
	  || { echo 'It could not be installed, so it is left out' >&2; rm -rf $(@D); }

$(VENV)/created:
	@test -n '$(PYTHON)' || { echo 'Found no Python 3.11 or newer with venv and ensurepip; name one: make … PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(STEP) 'Create $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@
