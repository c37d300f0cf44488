# Everything runs in .venv; set PYTHON to use another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable .
	touch $(STAMP)

$(VENV)/.developer: $(STAMP)
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

demo: $(STAMP)  ## set up and answer a question about a shipped tale with the embedded model
	$(BIN)/python examples/demo.py

test: $(VENV)/.developer  ## set up and run all tests
	$(BIN)/python -m pytest

check: $(VENV)/.developer  ## formatter, linter, type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy reader strategies evals

format: $(VENV)/.developer
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.developer  ## the table of the README
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) build dist *.egg-info
