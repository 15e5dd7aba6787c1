# `make demo` and `make test` do all of their own set-up; they need Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup browser demo test check matrix format clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group check
	touch $@

# The pages are tested in Debian's Chromium.
browser:
	@command -v chromium >/dev/null || { \
	  echo "installing chromium, in which the pages are tested"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  { $$sudo apt-get -qq update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium; } >/dev/null || { \
	    echo "chromium could not be installed; put it on the PATH (Debian: apt-get install chromium)" >&2; exit 1; }; }

demo: setup
	$(BIN)/python demo/run.py

test: setup browser
	$(BIN)/python -m pytest

check: setup browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

# The Matrix channel against Synapse instead of the stand-in; too heavy for every run.
matrix: setup .venv-synapse/ready
	WAKELOOP_SYNAPSE=$(CURDIR)/.venv-synapse/bin/python $(BIN)/python -m pytest tests/conformance/test_matrix_channel.py

.venv-synapse/ready:
	$(PYTHON) -m venv .venv-synapse
	.venv-synapse/bin/python -m pip install --quiet "matrix-synapse>=1.163"
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-synapse .pytest_cache .mypy_cache .ruff_cache .hypothesis
