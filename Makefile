# GNU make, 3.81 or newer (macOS has that one). Nothing is installed outside .venv.
#
#   make demo       install, then train SegFormer on the embedded data set
#   make test       the suite without its slow tests
#   make test-all   the whole suite            make check   ruff, mypy, import-linter
#   make docs       the documentation as a site, in site/
#   make test-oldest   the suite on the oldest versions that pyproject.toml allows, in .venv-oldest
#   make test-hosts   two hosts as network namespaces (as root on Linux), and other runs of minutes
#   make bench      measure speed and memory, and write the tables of docs/results.md
#   make fix        mend what ruff can mend    make clean   remove .venv and all that was built

VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# More of pytest's flags: make test PYTEST_ARGS="-n 0 -x -k registry"
PYTEST_ARGS ?= -n $(WORKERS) --dist loadfile --no-loadscope-reorder
WORKERS := 2
# Another Python: make demo PYTHON=/opt/python3.12/bin/python3
PYTHON ?=

# Compiled files are kept, whatever the shell says: each test that starts a process needs them.
export PYTHONDONTWRITEBYTECODE :=

# More of segacc's flags: make demo DEMO_ARGS="--epochs 24"
DEMO_DIR ?= runs/demo
DEMO_ARGS ?=
DEMO = accelerate launch -m segacc --arch segformer --output-dir $(DEMO_DIR) --overwrite $(DEMO_ARGS)

.PHONY: help demo test test-all test-oldest test-hosts check docs bench fix clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/installed
	@echo '$$ $(DEMO)'
	@PATH="$(abspath $(BIN)):$$PATH" $(DEMO)

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not hosts" $(PYTEST_ARGS)

# The slow tests also wait: for workers, signals, servers.
test-all: WORKERS := 3
test-all: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-oldest: $(OLDEST)/installed-dev
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -m "not slow and not hosts" $(PYTEST_ARGS)

test-hosts: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m hosts

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/python docs/tools/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# One after the other: if one fails or misses a target, the others are still measured.
BENCH ?= data train evaluate arithmetic start scaling gpu round_trip
bench: $(VENV)/installed-dev
	@failed=; for name in $(BENCH); do \
	    echo "make: benchmarks/$$name.py"; \
	    $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; \
	done; \
	$(BIN)/python benchmarks/page.py && \
	if [ -n "$$failed" ]; then echo "make: failed, or missed a target:$$failed" >&2; exit 1; fi

fix: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two stamps: a second run is instant, a changed pyproject.toml installs anew.
$(VENV)/installed: $(VENV)/created pyproject.toml
	@echo "make: installing segacc and what it needs into $(VENV); torch is large, so this takes some minutes"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml
	@echo "make: installing segacc and its test extras into $(VENV); torch is large, so this takes some minutes"
	@$(PIP) install --editable '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/created:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "make: creating $(VENV) with $$($$python --version)"; \
	        $$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	        echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo "make: segacc needs Python 3.11 or newer, and none of python3.13, python3.12, python3.11, python3 is." >&2; \
	echo "make: install one, or name it: make demo PYTHON=/path/to/python3" >&2; \
	exit 1

# Each dependency of segacc in the version after its `>=`; what the tests need besides is the newest.
FLOORS = import re, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(re.sub(r"\[.*\]", "", one).replace(">=", "==") for one in project["dependencies"]), sep="\n")

$(OLDEST)/installed-dev: $(VENV)/created pyproject.toml
	@echo "make: installing the oldest versions that pyproject.toml allows into $(OLDEST)"
	@$(BIN)/python -m venv --clear $(OLDEST)
	@$(BIN)/python -c '$(FLOORS)' > $(OLDEST)/floors.txt
	@$(OLDEST)/bin/python -m pip --disable-pip-version-check -qq install -c $(OLDEST)/floors.txt --editable '.[dev]'
	@touch $@
