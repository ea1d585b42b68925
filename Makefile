# make demo | test | test-all | fuzz | bench | lint | format | docs | clean
# A virtual environment in .venv; uv makes it faster where it is installed, plain venv and pip do otherwise.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where this is set, every process of the tests would compile every module that it imports: two thirds of its start.
export PYTHONDONTWRITEBYTECODE :=

UV := $(shell command -v uv 2>/dev/null)
ifdef UV
CREATE = uv venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
else
CREATE = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test test-all fuzz lit bench lint format docs clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("hpcc needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "making $(VENV)"
	@$(CREATE)

# One stamp per set of extras: a second run installs nothing.
$(VENV)/.base: pyproject.toml | $(BIN)/python
	@echo "installing hpcc"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test $(VENV)/.dev $(VENV)/.bench $(VENV)/.train: $(VENV)/.%: pyproject.toml | $(VENV)/.base
	@echo "installing hpcc[$*]"
	@$(INSTALL) -e '.[$*]'
	@touch $@

demo: $(VENV)/.base
	@model=$$($(BIN)/python benchmarks/workloads.py l3) && \
	tokenizer=$$($(BIN)/python benchmarks/workloads.py tokenizer) && \
	mkdir -p build && \
	echo "hpcc $$(basename "$$model") --target fpga-u280 --shape input_ids:1x128 --sparsity hp:0.75 --text examples/sentences.txt" && \
	$(BIN)/hpcc "$$model" --target fpga-u280 --shape input_ids:1x128 --sparsity hp:0.75 \
	    --text examples/sentences.txt --tokenizer "$$tokenizer" -o build/demo.hpcc

lit: $(VENV)/.test
	@$(BIN)/lit -q tests/lit

test: lit
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --dist worksteal

test-all: lit $(VENV)/.train
	@$(BIN)/python -m pytest -q -o timeout=3600

# Damaged files of every kind for an hour: `make fuzz SECONDS=60` for a minute, KIND=models for one kind of file.
SECONDS ?= 3600
fuzz: $(VENV)/.test
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(KIND),--kind $(KIND)) $(if $(SEED),--seed $(SEED))

# Engines to compare with; one that does not install here is left out of the figures.
$(VENV)/.peers: | $(VENV)/.base
	@for peer in "iree-base-compiler[onnx]==3.13.*" "openvino==2026.*"; do \
	    $(INSTALL) "$$peer" || echo "$$peer does not install here and is left out"; done
	@touch $@

bench: $(VENV)/.bench $(VENV)/.peers
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.accelerator
	@$(BIN)/python -m benchmarks.boards
	@$(BIN)/python -m benchmarks.lengths
	@$(BIN)/python -m benchmarks.cpu

lint: $(VENV)/.dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports
	@$(BIN)/basedpyright

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(VENV)/.base
	@$(BIN)/python -m compiler.tools.pages

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
