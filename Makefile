# make run    the reference application: PORT=8000 ADDRESS=127.0.0.1; from the environment DATABASE_URL,
#             REPLICA_URL, DEBUG=1, and STATUS_PASSWORD, which opens /-/greentor and /-/metrics
# make test   `make check`, then the tests: PYTEST_ARGS="-k pool -x"
# make check  ruff, mypy, and `make docs`
# make docs   docs/ as HTML in .cache/docs/html; a link that leads nowhere is an error
# make linkcheck  ask other sites whether the links to them still lead somewhere
# make oracle the slow ones, two hours: PyMySQL's own tests and the whole of Django's inside greenlets, Tornado's
#             on the server that reads with httptools, hostile bytes, and a fault at every point at which a
#             session waits: DRIVER_ARGS, ORACLE_ARGS="basic queries"
# make bench  the comparison with its peers, an hour and a half: BENCH_ARGS="--quick", see docs/benchmarks.md
# make bench-check  whether we have fallen behind the committed report, some minutes
# make clean  remove what these created here
#
# Each creates what it needs: a virtual environment, and as root Debian packages that are missing.
# PYTHON=python3.13 uses another interpreter, in an environment of its own.

PORT ?= 8000
ADDRESS ?= 127.0.0.1
PYTEST_ARGS ?=
ORACLE_ARGS ?= --all
DRIVER_ARGS ?=
BENCH_ARGS ?=

ifdef PYTHON
VENV ?= .venv-$(notdir $(PYTHON))
else
PYTHON := python3.11 python3 python3.12 python3.13
VENV ?= .venv
endif
PY := $(VENV)/bin/python
# The peers have an environment of their own: with mysqlclient in it, Django takes that driver.
BENCH_VENV := $(VENV)-bench
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

# One shell for each recipe; it stops at the first command that fails.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := test
.PHONY: run test check docs linkcheck oracle bench bench-check clean system bench-system

run: $(VENV)/.installed-run
	exec $(PY) -m app --port $(PORT) --address $(ADDRESS)

test: $(VENV)/.installed-dev check system
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The whole of it each time, 3 s: a link may break by a change of the page that it leads to.
SPHINX = $(VENV)/bin/sphinx-build -q -E -a -n -W --keep-going -d .cache/docs/doctrees

docs: $(VENV)/.installed-dev
	$(SPHINX) -b html docs .cache/docs/html
	echo "The pages: .cache/docs/html/index.html"

linkcheck: $(VENV)/.installed-dev
	$(SPHINX) -b linkcheck docs .cache/docs/linkcheck

oracle: $(VENV)/.installed-dev system
	$(PY) -m tests.oracle_driver $(DRIVER_ARGS)
	$(PY) -m tests.oracle_tornado
	$(PY) -m tests.oracle_tornado --loop uvloop
	$(PY) -m tests.fuzz --inputs 200000
	$(PY) -m tests.fuzz --inputs 50000 --loop uvloop
	$(PY) -m tests.oracle $(ORACLE_ARGS)
	$(PY) -m tests.oracle --engine sqlite3 $(ORACLE_ARGS)
	$(PY) -m tests.faults

bench: $(BENCH_VENV)/.installed system
	$(BENCH_VENV)/bin/python -m bench $(BENCH_ARGS)

bench-check: $(BENCH_VENV)/.installed system
	$(BENCH_VENV)/bin/python -m bench.guard

clean:
	rm -rf .venv .venv-* .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-run: setup.py $(PY)
	$(PIP) --editable '.[app,rsa]'
	touch $@

$(VENV)/.installed-dev: setup.py $(PY)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed-run

$(BENCH_VENV)/.installed: setup.py bench/peers/requirements.txt $(PY) | bench-system
	$(PY) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[app,rsa]' \
		--requirement bench/peers/requirements.txt
	touch $@

# Install Debian packages, or say which are missing: $(call debian,PACKAGES)
define debian
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		export DEBIAN_FRONTEND=noninteractive
		apt-get update --quiet --quiet
		apt-get install --quiet --quiet --yes --no-install-recommends $(1)
	else
		echo "These Debian packages are missing: $(strip $(1)). As root: apt-get install" $(1) >&2
		exit 1
	fi
endef

# The first interpreter in PYTHON that runs and is new enough. A pyenv shim fails for a version that is
# installed but not switched on: take the interpreter behind it.
$(PY):
	@for name in $(PYTHON); do
		python=$$name
		if ! "$$name" -c '' 2>/dev/null && command -v pyenv >/dev/null; then
			version=$$(pyenv whence "$$name" 2>/dev/null | tail -n 1 || true)
			python=$$(pyenv root)/versions/$$version/bin/$$name
		fi
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			break
		fi
		python=
	done
	if [ -z "$$python" ]; then
		echo "greentor needs Python 3.11 or newer; tried: $(PYTHON)." >&2
		echo "Install one (Debian: apt-get install python3), or name it: make ... PYTHON=/path/to/python3" >&2
		exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
		package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
		$(call debian,"$$package")
	fi
	echo "Creating $(VENV) with $$python"
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What the tests start: a private MariaDB (no service is installed) and ab.
system:
	@export PATH="$$PATH:/usr/sbin"
	missing=()
	command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null \
		|| missing+=(mariadb-server-core)
	command -v mariadb-tzinfo-to-sql >/dev/null || missing+=(mariadb-client)
	command -v ab >/dev/null || missing+=(apache2-utils)
	if [ "$${#missing[@]}" != 0 ]; then
		$(call debian,"$${missing[@]}")
	fi
	# One of its plugins is packed together with the service, which is not to be installed.
	plugin=/usr/lib/mysql/plugin/auth_ed25519.so
	if [ ! -e "$$plugin" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		directory=$$(mktemp -d)
		cd "$$directory"
		apt-get update --quiet --quiet
		apt-get download --quiet --quiet --option APT::Sandbox::User=root mariadb-server
		dpkg-deb --fsys-tarfile mariadb-server_*.deb | tar --extract --directory=/ ".$$plugin"
		rm -r "$$directory"
	fi

# wrk, and what mysqlclient is compiled with.
bench-system:
	@missing=()
	command -v wrk >/dev/null || missing+=(wrk)
	command -v gcc >/dev/null || missing+=(gcc libc6-dev)
	command -v pkg-config >/dev/null || missing+=(pkg-config)
	command -v mariadb_config >/dev/null || missing+=(libmariadb-dev)
	if [ "$${#missing[@]}" != 0 ]; then
		$(call debian,"$${missing[@]}")
	fi
