# make demo         a busy shop on an embedded PostgreSQL, and a worker that is killed twice; counts what arrived (SECONDS=20 RATE=200 ARGS=--keep)
# make test         all tests for which this machine has the servers (ARGS='-k word', ARGS=-n0: in one process)
# make check        lint, types, import rules, tests
# make format       formats the code and fixes what ruff can fix
# make docs         builds the documentation into site/
# make bench        measures throughput and latency; writes bench.json
# make soak         kills the worker 200 times, and every exactly-once destination 100 times (KILLS=20)
# make constraints  rewrites constraints.txt with the newest versions that pyproject.toml allows
# make clean        removes everything that these targets create, .venv included
#
# Every target runs in .venv, which is created if it is missing, and filled again only when pyproject.toml or constraints.txt
# changes: after the first time nothing here needs the network.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PROCESSES ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 3 ? cores + 1 : 4)))# of tests: more than cores, because tests often wait
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of processes, which would compile the package each time
options = $(if $(SECONDS),--seconds $(SECONDS)) $(if $(RATE),--rate $(RATE)) $(ARGS)

.PHONY: demo test lint types imports format check bench soak docs constraints clean python

demo: $(VENV)/demo-installed
	$(BIN)/cdc-tracker demo $(options)

test: $(VENV)/dev-installed
	$(BIN)/pytest -n $(PROCESSES) $(ARGS)

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev-installed
	$(BIN)/mypy

imports: $(VENV)/dev-installed
	$(BIN)/lint-imports

check: lint types imports test

bench: $(VENV)/dev-installed
	$(BIN)/python -m tests.bench $(ARGS)

soak: $(VENV)/dev-installed
	$(BIN)/python -m tests.crash.soak $(if $(KILLS),--kills $(KILLS)) $(ARGS)
	$(BIN)/python -m tests.contract.soak $(if $(KILLS),--kills $(KILLS))

docs: $(VENV)/dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# From a fresh environment, so that only what pyproject.toml requires is pinned.
constraints:
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet --editable '.[dev]'
	{ sed '/^#/!d' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean:
	rm -rf $(VENV) demo-data build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench.json
	find cdc_tracker tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Prints the interpreter that .venv is created with.
python:
	@test -n "$(PYTHON)" && echo $(PYTHON)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name yours with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/demo-installed
