# The commands of this repository. `make check` while working, `make test` before handing over.
VENV := .venv
PY := $(VENV)/bin/python
# Checks run on this checkout, whatever the environment's editable install points to.
export PYTHONPATH := .:daemon:cli:guest
TYPED := $(foreach folder,cowfs daemon cli guest tests bench,$(if $(shell find $(folder) -name "*.py" -print -quit),$(folder)))

.PHONY: help venv lint check test torture vm demo bench wheel compiled clean

help:
	@echo 'make venv    a virtual environment in .venv, with everything installed'
	@echo 'make check   style, types, import rules, tidiness, unit tests (under 3 minutes)'
	@echo 'make test    make check and every other test'
	@echo 'make demo    import, wreck, restore and fork real files, with proof'
	@echo 'make torture fuzzed records, damaged stores, power losses, 500 kills, mirrors, databases, outside suites, long life (2 hours)'
	@echo 'make vm      a virtual machine: boot, programs, a copy of its frozen disk (QEMU, root; some minutes)'
	@echo 'make wheel   a wheel in dist/ whose serving path is compiled, for this Python (some minutes)'
	@echo 'make compiled the tests on that wheel (30 minutes)'
	@echo 'make bench   every scenario of bench/, figures into build/bench (long)'

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml .ci/setup
	.ci/setup $(VENV)

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict $(TYPED)
	$(VENV)/bin/lint-imports

check: lint
	$(PY) -m pytest -q tests/tidy tests/unit

test: lint
	$(PY) -m pytest -q tests

torture: venv
	$(PY) -m tests.hostile.fuzz 1000000
	$(PY) -m tests.hostile.damage 500 build/torture
	$(PY) -m tests.workers.listings 120
	$(PY) -m tests.conformance
	$(PY) -m tests.conformance.fsx --seed 7 --seconds 300
	$(PY) -m tests.conformance.fsx --seed 7 --seconds 120 --transport pyfuse3
	$(PY) -m tests.outside
	$(PY) -m tests.property.campaign 300
	$(PY) -m tests.fault.power --killed --seeds 15
	$(PY) -m tests.fault.daemon_kills
	$(PY) -m tests.torture --seconds 20 --rounds 20 --kills 500 --rate 0.7
	$(PY) -m tests.torture.real --seconds 240 --copy-mb 1024
	$(PY) -m tests.mirror --seeds 1 2 3 4 5 --seconds 120
	$(PY) -m tests.databases.sqlite --forks 20 --seconds 40
	$(PY) -m tests.endurance --cycles 10000 --every 500
	$(PY) -m tests.databases.postgres --forks 20 --seconds 60

vm: venv
	$(PY) -m tests.vm
	$(PY) -m tests.vm.workspaces

demo: venv
	$(PY) -m bench.demo

bench: venv
	$(PY) -m bench.run

wheel: venv
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(PY) -m pip wheel -q --disable-pip-version-check --no-deps -w dist .

compiled: wheel
	.ci/compiled

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
