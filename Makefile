# `make up` and `make test` each need nothing but a Python of 3.11 or newer.

# The newest Python found is taken; `make PYTHON=/path/to/python3.12 up` takes another.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)
BIN := .venv/bin
UV_VERSION := 0.13.9

.PHONY: up test scenarios fuzz faults lint format lock bench bench-quick clean .venv

up: .venv
	@exec $(BIN)/teller up

# First what only computes and asks PostgreSQL; then what runs whole systems and watches the clock.
COMPUTING := tests/unit tests/store tests/http tests/cli
RUNNING := tests/faults tests/flow tests/browser tests/scenarios tests/embedded
# One more than there are cores: much of it waits.
AT_ONCE := $(shell python3 -c 'import os; print(min(5, 1 + (os.cpu_count() or 1)))' 2>/dev/null || echo 2)

test: lint
	$(BIN)/pytest -n $(AT_ONCE) --dist worksteal $(COMPUTING)
	$(BIN)/pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder $(RUNNING)

# Each story of a promise runs twenty times, with a hundred thousand requests waiting. Takes some minutes.
scenarios: .venv
	SCENARIO_ROUNDS=20 $(BIN)/pytest tests/scenarios tests/faults/test_scenarios.py --timeout 1200

# The OpenAPI document's own words, bent, for some minutes, each time in other ways; FUZZ_SEED=n repeats one.
fuzz: .venv
	@seed=$${FUZZ_SEED:-$$(date +%s)}; echo "FUZZ_SEED=$$seed" && \
	    FUZZ_SEED=$$seed FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-100} $(BIN)/pytest tests/http/test_fuzz.py --timeout 3600

# About a quarter of an hour; SEED=, MINUTES=, FAULTS= and KINDS= (tests/faults/__main__.py).
faults: .venv
	@exec $(BIN)/python -P -m tests.faults

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.prose
	$(BIN)/python -m tools.spelling

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# About a quarter of an hour: Teller beside what else one could take, into bench/results/; BENCH="--only drain" and
# more (python -m bench --help). The quick one, of three minutes, shows that it works.
bench: .venv
	@exec $(BIN)/python -P -m bench $(BENCH)

bench-quick: .venv
	@exec $(BIN)/python -P -m bench --quick $(BENCH)

.venv: .venv/installed

# Made anew whenever the lock changes, so that nothing stays behind that is no longer pinned.
.venv/locked: requirements-dev.lock
	@found=; old=; \
	for python in $(PYTHONS); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$python is $$version"; continue; }; \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || { old="$$python has no venv (Debian: apt-get install python$$version-venv)"; continue; }; \
	    found=$$python; break; \
	done; \
	[ -n "$$found" ] || { echo "Teller needs Python 3.11 or newer with venv, and found none among $(PYTHONS)$${old:+: $$old}; name one with PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "making .venv with $$($$found --version)" && $$found -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.venv/installed: .venv/locked pyproject.toml
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Newer versions within pyproject.toml: remove a line from the locks, or the locks, first.
LOCK := .lock-venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
        --generate-hashes --custom-compile-command "make lock" --no-config
lock:
	@[ -x .venv/bin/python ] || { echo "make .venv first" >&2; exit 1; }
	$(BIN)/python -m venv --clear .lock-venv
	.lock-venv/bin/pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	$(LOCK) --group build --output-file requirements.lock
	$(LOCK) --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@rm -rf .lock-venv

clean:
	rm -rf .venv .lock-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
