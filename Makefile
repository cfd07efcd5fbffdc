# make run  [WORKLOAD=ogbg_chembl] [FRAMEWORK=pytorch]   compare K-FAC with NAdamW
# make test                                             style, types and the fast tests
# make test-slow                                        the studies of minutes

WORKLOAD ?= ogbg_chembl
FRAMEWORK ?= pytorch
PYTHON3 ?= python3

VENV := .venv
PYTHON := $(VENV)/bin/python
# Written once the packages are in place, so that the next call starts at once.
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

.PHONY: run test test-slow lint format clean

run: $(RUN_STAMP)
	$(PYTHON) -m experiments.compare --workload=$(WORKLOAD) --framework=$(FRAMEWORK)

test: lint
	$(PYTHON) -m pytest -q -m 'not slow' --numprocesses=2

test-slow: $(TEST_STAMP)
	$(PYTHON) -m pytest -q -m slow

lint: $(TEST_STAMP)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format: $(TEST_STAMP)
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON3=/path/to/python3.11'; exit 1; }
	$(PYTHON3) -m venv $(VENV)

$(RUN_STAMP): setup.cfg constraints.txt pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(TEST_STAMP): $(RUN_STAMP)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
