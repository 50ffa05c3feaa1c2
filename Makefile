# make demo   make an environment, then assess a synthetic scan and compare with the truth
# make test   make an environment, then run all tests
# make lint   format check, lint, type check and the direction of imports
# make results   write the tables of docs/results.md from the stored metrics
#
# Needs Python 3.11 or newer, git and make. VENV names the environment's folder.
VENV ?= .venv
PYTHON ?= python3
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint results

demo: $(VENV)/installed
	$(VENV)/bin/covsev demo --output demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

results: $(VENV)/installed
	$(VENV)/bin/python benchmarks/results.py

$(VENV)/installed: setup.cfg setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing covsev and all that its tests need into $(VENV): some minutes, about 4 GB"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
