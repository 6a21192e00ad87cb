# What a developer runs. `make help` lists it. Everything happens inside .venv, which the first target to need it makes.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# Most of what is installed is never imported: Python compiles what is, when it is first imported, and must keep that.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
PIP := $(INSTALL) -c constraints.txt
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup

# The lower end of the supported range: an older transformers laid over the same environment.
OLDEST := $(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1.0/p' pyproject.toml)
OLDEST_LIBRARY := .cache/transformers-$(OLDEST)/library

.PHONY: help demo test test-newest test-oldest check lint bundled-model clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo           captions the bundled example images with the bundled model'
	@echo 'make test           every test with the newest supported transformers, most with the oldest too'
	@echo 'make check          format, lint, types and the fast tests'
	@echo 'make bundled-model  trains the bundled model again (half an hour on two cores with bfloat16)'
	@echo 'make clean          removes .venv and everything fetched or built'

demo: $(VENV)/.runtime
	@mkdir -p build
	$(BIN)/coca-hf caption src/coca_hf/assets/examples --report build/demo.html
	@echo 'The same, with the pictures: build/demo.html'

test: test-newest test-oldest

test-newest: $(VENV)/.dev
	$(BIN)/python scripts/fetch_transformers_tests.py
	$(PYTEST)

test-oldest: $(VENV)/.dev $(OLDEST_LIBRARY)/.installed
	PYTHONPATH=$(OLDEST_LIBRARY) $(BIN)/python scripts/fetch_transformers_tests.py
	PYTHONPATH=$(OLDEST_LIBRARY) $(PYTEST) -m 'not slow'

check: lint
	$(BIN)/python scripts/fetch_transformers_tests.py
	$(PYTEST) -m 'not slow'

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/ruff check src tests scripts
	$(BIN)/mypy

bundled-model: $(VENV)/.dev
	$(BIN)/python scripts/train_bundled_model.py

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

# Without dependencies: both ends declare the same ones, and the environment has them at their tested versions.
$(OLDEST_LIBRARY)/.installed: $(VENV)/.dev
	@rm -rf $(OLDEST_LIBRARY)
	$(INSTALL) --no-deps --target $(OLDEST_LIBRARY) transformers==$(OLDEST)
	@touch $@
