# Each target makes what it needs: a fresh clone, Python 3.11+ and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test check format bench clean

help:            ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/app: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("gpt-tui needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/dev: $(VENV)/app
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/app ## set everything up and open the app on the bundled model
	$(BIN)/gpt-tui

# Two files at a time. What computes and what looks at the clock are not mixed.
test: check      ## set everything up, then every check and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/samplers tests/gpt_model tests/gpt_tui/cli
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/test_house.py tests/gpt_tui --ignore=tests/gpt_tui/cli tests/journeys

check: $(VENV)/dev ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## rewrite the sources in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev ## measure decoding, chains and training on this machine
	$(BIN)/gpt-tui bench decode -m shakespeare-mini
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/chains.py
	$(BIN)/python benchmarks/speculation.py
	$(BIN)/python benchmarks/train.py

clean:           ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
