# `make up` and `make test` each need nothing but a Python of 3.11 or newer.

# Tests start many processes, and each would compile all sources again.
unexport PYTHONDONTWRITEBYTECODE

# Uses the newest Python it finds. `make PYTHON=/path/to/python3.12 up` uses another.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)
BIN := .venv/bin
UV_VERSION := 0.13.9

.PHONY: up check test test-oldest scenarios fuzz faults lint format lock bench bench-quick clean .venv

# Needs only the packages of requirements.lock. All other targets also need those of requirements-dev.lock.
up: .venv/installed
	@exec $(BIN)/teller up

# These tests compute, and query PostgreSQL.
QUICK_TESTS := tests/unit tests/store
FRONT_TESTS := tests/http tests/cli
# These tests run whole systems and measure time, so they share the machine with nothing else.
SYSTEM_TESTS := tests/faults tests/flow tests/browser tests/scenarios tests/embedded
# Test processes: one more than there are cores, because tests often wait. At most five.
PROCESSES := $(shell python3 -c 'import os; print(min(5, 1 + (os.cpu_count() or 1)))' 2>/dev/null || echo 2)

# Takes less than a minute.
check: .venv
	@echo "check, step 1 of 2: lint"
	@$(MAKE) --silent lint
	@echo "check, step 2 of 2: $(QUICK_TESTS)"
	@$(BIN)/pytest -n $(PROCESSES) --dist worksteal $(QUICK_TESTS)

test: .venv
	@echo "test, step 1 of 3: lint; then quick tests, then tests of whole systems"
	@$(MAKE) --silent lint
	@echo "test, step 2 of 3: $(QUICK_TESTS) $(FRONT_TESTS); then tests of whole systems"
	@$(BIN)/pytest -n $(PROCESSES) --dist worksteal $(QUICK_TESTS) $(FRONT_TESTS)
	@echo "test, step 3 of 3: $(SYSTEM_TESTS)"
	@$(BIN)/pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(SYSTEM_TESTS)

# Repeats the tests of statements and plans on an installed PostgreSQL 15, the oldest that Teller supports.
test-oldest: .venv
	@$(BIN)/pytest -n $(PROCESSES) --dist worksteal --oldest-postgres tests/store tests/http/test_plans.py

# Each story of a promise runs twenty times, with a hundred thousand requests waiting. Takes some minutes.
scenarios: .venv
	SCENARIO_ROUNDS=20 $(BIN)/pytest tests/scenarios tests/faults/test_scenarios.py --timeout 1200

# Sends requests that almost match the OpenAPI document, for some minutes. FUZZ_SEED=n repeats a run.
fuzz: .venv
	@seed=$${FUZZ_SEED:-$$(date +%s)}; echo "FUZZ_SEED=$$seed" && \
	    FUZZ_SEED=$$seed FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-100} $(BIN)/pytest tests/http/test_fuzz.py --timeout 3600

# Injects faults for about a quarter of an hour. tests/faults/__main__.py explains SEED=, MINUTES=, FAULTS= and KINDS=.
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

# Compares Teller with its alternatives for about a quarter of an hour, and writes bench/results/.
# BENCH="--only drain" runs one part; `python -m bench --help` has the others. bench-quick takes three minutes.
bench: .venv
	@exec $(BIN)/python -P -m bench $(BENCH)

bench-quick: .venv
	@exec $(BIN)/python -P -m bench --quick $(BENCH)

.venv: .venv/dev

# Prints the number of each package that pip finds, at a terminal in one line.
define INSTALL
echo "installing the $$(grep -c '^[a-z]' $(1)) packages of $(1) into .venv; the first time takes a minute or two"; \
{ $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check --require-hashes -r $(1) 2>&1 \
    || touch .venv/failed; } \
    | awk -v all="$$(grep -c '^[a-z]' $(1))" -v step="$$([ -t 2 ] && echo 1 || echo 10)" ' \
        function say(text) { printf "  %-70s%s", text, step == 1 ? "\r" : "\n"; fflush() } \
        /^Collecting /  { n++; if (n % step == 0) say("package " n " of " all ": " $$2) } \
        /^Installing /  { say("all packages are here, and are being unpacked") } \
        /^ERROR/        { failed = 1 } \
        failed          { print > "/dev/stderr" } \
        END             { if (step == 1) print "" }'; \
[ ! -e .venv/failed ] || { rm -f .venv/failed; echo "the packages were not installed; see the lines above" >&2; exit 1; }
endef

# Made again whenever the lock changes, so that no package remains that is no longer pinned.
.venv/locked: requirements.lock
	@found=; old=; \
	for python in $(PYTHONS); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$python is $$version"; continue; }; \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || { old="$$python has no venv (Debian: apt-get install python$$version-venv)"; continue; }; \
	    found=$$python; break; \
	done; \
	[ -n "$$found" ] || { echo "Teller needs Python 3.11 or newer with venv, and found none among $(PYTHONS)$${old:+: $$old}; name one with PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "making .venv with $$($$found --version)" && $$found -m venv --clear .venv
	@$(call INSTALL,requirements.lock)
	@touch $@

.venv/installed: .venv/locked pyproject.toml
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The packages for checks and tests, beside those that run. A changed lock begins with an empty .venv.
.venv/dev: requirements-dev.lock .venv/installed
	@if [ -e $@ ]; then rm -f $@ .venv/locked; $(MAKE) --silent .venv/installed; fi
	@$(call INSTALL,requirements-dev.lock)
	@touch $@

# For newer versions within pyproject.toml, first remove lines from the locks, or both locks.
LOCK := .lock-venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
        --generate-hashes --custom-compile-command "make lock" --no-config
lock:
	@[ -x .venv/bin/python ] || { echo "make .venv first" >&2; exit 1; }
	$(BIN)/python -m venv --clear .lock-venv
	.lock-venv/bin/pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	$(LOCK) --group build --output-file requirements.lock
	$(LOCK) --group build --group dev --extra otel --constraint requirements.lock --output-file requirements-dev.lock
	@rm -rf .lock-venv

clean:
	rm -rf .venv .lock-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
