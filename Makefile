# quickstart and test do all set-up themselves; they need Python 3.11-3.13 with venv, make, and the package index.
PYTHON ?= python3
OUT ?= quickstart-out
# Tests of one file stay in one process, so that what they share is made once.
WORKERS ?= -n 2 --dist loadfile
MODEL ?= default-model
VENV := .venv
TESTENV := .venv-test
SOURCES := $(shell git ls-files '*.py' 'pyproject.toml' 'constraints.txt' 'corpus/data/*' 'enrich/data/*' 'enrich/templates/*' 'evaluate/templates/*' 'examples/*' 2>/dev/null)

.PHONY: quickstart default-model test test-all lint bench clean

# An editable install, for development, lint and the quickstart.
$(VENV)/packages: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=strict -e '.[dev]'
	touch $@

# Strict mode links the files that exist: link again when one comes or goes.
$(VENV)/ready: $(VENV)/packages $(SOURCES)
	$(VENV)/bin/python -m pip install --quiet --no-deps --config-settings editable_mode=strict -e .
	touch $@

quickstart: $(VENV)/ready
	$(VENV)/bin/okrcell quickstart --out $(OUT)

# Without DATA from scanpy's cells alone; with PAGE the page docs/default_model.md is written too.
default-model: $(VENV)/ready
	$(VENV)/bin/python benchmarks/default_model/run.py --out $(MODEL) $(if $(DATA),--data $(DATA)) $(if $(PAGE),--page $(PAGE))

# The wheel as a user gets it (build/ also holds the links of the editable install: keep those), in an environment of its own: tests run what was installed.
$(TESTENV)/ready: $(SOURCES)
	rm -rf $(TESTENV)/dist build/lib build/bdist.*
	test -x $(TESTENV)/bin/python || $(PYTHON) -m venv $(TESTENV)
	$(TESTENV)/bin/python -m pip install --quiet --upgrade pip
	$(TESTENV)/bin/python -m pip install --quiet -c constraints.txt build
	$(TESTENV)/bin/python -m build --quiet --wheel --outdir $(TESTENV)/dist .
	$(TESTENV)/bin/python -m pip install --quiet -c constraints.txt "$$(ls $(TESTENV)/dist/*.whl)[dev]"
	$(TESTENV)/bin/python -m pip install --quiet --force-reinstall --no-deps "$$(ls $(TESTENV)/dist/*.whl)"
	touch $@

test: $(TESTENV)/ready
	$(TESTENV)/bin/pytest $(WORKERS) -m "not slow and not browser"

test-all: $(TESTENV)/ready
	$(TESTENV)/bin/pytest $(WORKERS) --cov --cov-report=term

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy -p okrcell

bench: $(VENV)/ready
	$(VENV)/bin/python benchmarks/quickstart.py

clean:
	rm -rf $(VENV) $(TESTENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
