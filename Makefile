# The one door to every check. Each target sets up its own .venv on a machine that has only Python (3.11 or
# newer), a C compiler and make; stamps in .venv make the second call quick.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Stamps are set up one after the other also under `make -j`.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
NATIVE := $(wildcard src/multitask/_native/*.pyx src/multitask/_native/*.pxd src/multitask/_native/*.pxi src/multitask/_native/*.h)
# What `make test` runs; for one file: make test TESTS=tests/pure/test_layers.py
# Three at a time on two processors: most tests wait for processes to start or end.
TESTS ?= tests
PYTEST_FLAGS ?= -n 3 --dist worksteal

.PHONY: help run test bench check format docs chapters mutants sanitize wheel clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- the environment -------------------------------------------------------------------------------------

$(VENV)/.stamp-venv:
	@python=; for name in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14 python; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	test -n "$$python" || { echo "make: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	test -x $(BIN)/python || { echo "· making $(VENV) with $$python"; "$$python" -m venv $(VENV); } || \
	{ echo "make: '$$python -m venv' failed; on Debian: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@$(PIP) "setuptools>=77" "Cython>=3.1"
	@touch $@

# What running needs: few packages, so that the first `make run` is quick.
$(VENV)/.stamp-run: pyproject.toml setup.py | $(VENV)/.stamp-venv
	@echo "· installing multitask and building its native core (half a minute)"
	@$(PIP) --no-build-isolation --editable .
	@touch $@

# The native core again whenever its sources are newer. Without it everything works on pipes, so its absence
# is said and is no error; pytest's header says it too.
$(VENV)/.stamp-native: $(NATIVE) | $(VENV)/.stamp-run
	@mkdir -p build; $(BIN)/python setup.py --quiet build_ext --inplace > build/native.log 2>&1 || \
	{ cat build/native.log >&2; exit 1; }
	@$(BIN)/python -c 'import multitask._native.core' 2>/dev/null || \
	echo "· the native core could not be built (build/native.log); going on without it" >&2
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/.stamp-native
	@echo "· installing what the checks need"
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.stamp-bench: pyproject.toml | $(VENV)/.stamp-dev
	@echo "· installing the peers to compare with"
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

# --- what people type ------------------------------------------------------------------------------------

run: $(VENV)/.stamp-native ## copy a real folder of thousands of files under a live progress bar
	@tools/run.sh $(BIN)

test: $(VENV)/.stamp-dev ## all tests; a few that fail run once more, alone
	@$(BIN)/python -m pytest --cache-clear $(PYTEST_FLAGS) $(TESTS) || \
	{ test $$? -eq 1 && $(BIN)/python tools/alone.py; }

bench: $(VENV)/.stamp-bench ## the figures, side by side with the peers
	@$(BIN)/python bench/pool.py $(BENCH_FLAGS)
	@$(BIN)/python bench/queue.py $(BENCH_FLAGS)
	@$(BIN)/python bench/sharing.py $(BENCH_FLAGS)

check: $(VENV)/.stamp-dev ## lint, format, types, layers, the docs and their examples
	@echo "· ruff check";  $(BIN)/ruff check --quiet .
	@echo "· ruff format"; $(BIN)/ruff format --check --quiet . || { echo "make: 'make format' puts it right" >&2; exit 1; }
	@echo "· mypy --strict"; $(BIN)/mypy
	@echo "· layers, docs, examples"
	@$(BIN)/python -m pytest -q tests/pure/test_layers.py tests/pure/test_docs_examples.py tests/pure/test_examples.py tests/pure/test_differences.py tests/pure/test_chapters.py
	@echo "· mkdocs"; NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

format: $(VENV)/.stamp-dev ## let ruff put imports and layout right
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

docs: $(VENV)/.stamp-dev ## read the docs at http://127.0.0.1:8000
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

chapters: $(VENV)/.stamp-native ## the table of the 22 chapters: what exists
	@$(BIN)/python tools/chapters.py

mutants: $(VENV)/.stamp-dev ## plant named faults one after the other; each must turn its test red
	@$(BIN)/python tools/mutants.py $(MUTANTS)

sanitize: $(VENV)/.stamp-dev ## the native tests under the Address/UB and Thread sanitizers, and their planted faults
	@$(MAKE) --no-print-directory -C tests/native asan tsan planted PYTHON=$(abspath $(BIN))/python

wheel: $(VENV)/.stamp-dev ## build dist/*.whl and *.tar.gz
	@$(BIN)/python -c 'import build.__main__' 2>/dev/null || $(PIP) build
	@MULTITASK_REQUIRE_NATIVE=1 $(BIN)/python -m build --no-isolation --outdir dist .
	@ls -l dist

clean: ## remove what was built; .venv stays
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f src/multitask/_native/*.so src/multitask/_native/*.c $(VENV)/.stamp-native
