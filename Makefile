# `make demo` and `make test` do all of their own set-up; they need Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for something most of the time: three at once are done in half the time on two cores.
PYTEST := $(BIN)/python -m pytest --numprocesses=3 --dist=worksteal

.PHONY: setup browser pgbouncer rabbitmq demo test chaos check audit audit-if-reachable matrix bench format clean

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

# Unpacked, not installed: Debian would start it as a service.
pgbouncer: setup
	@command -v pgbouncer >/dev/null || test -x .venv/debian/usr/sbin/pgbouncer || { \
	  echo "unpacking pgbouncer, behind which the store is tested"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  mkdir -p .venv/debian && cd .venv/debian && { apt-cache show pgbouncer || $$sudo apt-get -qq update; } >/dev/null 2>&1 && \
	  apt-get -qq download pgbouncer $$(apt-cache depends pgbouncer | sed -n 's/^ *Depends: \(lib\(event\|c-\{0,1\}ares\).*\)/\1/p') 2>/dev/null && \
	  for archive in *.deb; do dpkg-deb -x $$archive . || exit 1; done || { \
	    echo "pgbouncer could not be brought; put it on the PATH (Debian: apt-get install pgbouncer)" >&2; exit 1; }; }

# Apart from `make test`: its server is some sixty megabytes, and Debian starts it as a service.
rabbitmq: setup
	@test -x /usr/lib/rabbitmq/bin/rabbitmq-server || { \
	  echo "installing rabbitmq-server"; \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  { $$sudo apt-get -qq update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends rabbitmq-server; } >/dev/null || { \
	    echo "rabbitmq-server could not be installed" >&2; exit 1; }; }
	$(BIN)/python -m pytest --rabbitmq tests/acceptance/test_rabbitmq.py

demo: setup
	$(BIN)/python demo/run.py

test: setup browser pgbouncer
	$(PYTEST)

check: setup browser pgbouncer audit-if-reachable
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST)

# The Matrix channel against Synapse instead of the stand-in; too heavy for every run.
matrix: setup .venv-synapse/ready
	WAKELOOP_SYNAPSE=$(CURDIR)/.venv-synapse/bin/python $(BIN)/python -m pytest tests/conformance/test_matrix_channel.py

.venv-synapse/ready:
	$(PYTHON) -m venv .venv-synapse
	.venv-synapse/bin/python -m pip install --quiet "matrix-synapse>=1.163"
	touch $@

# Everything, or `make bench ONLY=engine,runs`; `ROUNDS=2` for a quick look, `QUICK=1` for small sizes, `WITHOUT=dbos` to leave
# out a peer.
bench: setup .venv-bench/ready
	$(BIN)/python -m bench run $(if $(ONLY),--only "$(ONLY)") $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) \
	  $(if $(WITHOUT),--without "$(WITHOUT)")

# Always the latest peers: `rm -rf .venv-bench` brings newer ones. Restate's server is npm's; the others are measured without it.
.venv-bench/ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --group bench
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix .venv-bench/restate @restatedev/restate-server@latest || \
	  echo "Restate is left out of the benchmarks: npm is not there, or could not bring its server" >&2
	touch $@

# Faults while runs go on, and whether every promise was kept: minutes. `make test` has a short form of the same.
RUNS ?= 10000
KILLS ?= 200
SEED ?= 1
EVERY ?= 1.5
chaos: setup
	$(BIN)/python -m tests.chaos $(if $(ONLY),--only $(ONLY)) --runs $(RUNS) --kills $(KILLS) --seed $(SEED) --every $(EVERY)

# Known vulnerabilities of the pinned versions. It asks a service; `check` goes on where that cannot be reached, and says so,
# `audit` itself does not.
AUDIT = $(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off
audit: .venv/auditing
	$(AUDIT) || { \
	  echo "audit: not clean, or the service of known vulnerabilities could not be reached (see above)" >&2; exit 1; }

audit-if-reachable: .venv/auditing
	@$(AUDIT) >.venv/audit.txt 2>&1 && cat .venv/audit.txt || { \
	  if grep -q '^Found [0-9]* known vulnerabilit' .venv/audit.txt; then cat .venv/audit.txt >&2; exit 1; fi; \
	  echo "not audited, the service of known vulnerabilities does not answer: $$(grep ERROR .venv/audit.txt | tail -1)"; }

.venv/auditing: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "pip-audit>=2.10"
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-bench .venv-synapse .pytest_cache .mypy_cache .ruff_cache .hypothesis
