# What a developer runs. `make help` lists it. Everything happens inside .venv, which the first target to need it makes.

PYTHON ?= python3
WORKERS ?= 2
# The requirement for torch in `make test-latest`, for machines that must not take the newest one.
TORCH ?= torch

VENV := .venv
BIN := $(VENV)/bin
# Most of what is installed is never imported: Python compiles what is, when it is first imported, and must keep that.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
PIP := $(INSTALL) -c constraints.txt
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --durations 30 --durations-min 5

.PHONY: help demo test test-latest check lint docs bundled-model clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo           captions the bundled example images with the bundled model'
	@echo 'make test           every test'
	@echo 'make test-latest    the fast tests and saved folders with the newest releases of everything (TORCH=torch==X)'
	@echo 'make check          format, lint, types and the fast tests'
	@echo 'make docs           the documentation, into build/docs; a warning is an error'
	@echo 'make bundled-model  trains the bundled model again (half an hour on two cores with bfloat16)'
	@echo 'make clean          removes .venv and everything fetched or built'

demo: $(VENV)/.runtime
	@mkdir -p build
	$(BIN)/coca-hf caption src/coca_hf/assets/examples --report build/demo.html
	@echo 'The same, with the pictures: build/demo.html'

test: $(VENV)/.dev
	$(BIN)/python scripts/checks/fetch_transformers_tests.py
	$(PYTEST)

test-latest:
	$(PYTHON) scripts/checks/test_latest.py --torch '$(TORCH)' --workers $(WORKERS)

check: lint
	$(BIN)/python scripts/checks/fetch_transformers_tests.py
	$(PYTEST) -m 'not slow'

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict
	$(BIN)/python scripts/docs/live_demo.py build/docs/demo
	@echo 'Open build/docs/index.html'

bundled-model: $(VENV)/.dev
	$(BIN)/python scripts/bundled_model/train_bundled_model.py

clean:
	rm -rf $(VENV) .cache build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo 'Installing into $(VENV); the first time this downloads PyTorch.'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	@touch $@
