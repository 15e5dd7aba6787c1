# `make demo` and `make test` do all of their own set-up; they need Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup browser demo test check audit format clean

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

# Known vulnerabilities of the pinned versions. It asks a service: where that is not reachable it fails and says so,
# which is why it stands beside `check` and not in it.
audit: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "pip-audit>=2.10"
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off || { \
	  echo "audit: not clean, or the service of known vulnerabilities could not be reached (see above)" >&2; exit 1; }

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
