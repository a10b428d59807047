# Two commands do everything on a machine with python3 and pip: `make demo` and `make test`. Each sets up what is missing.
PYTHON ?= python3
JOBS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export MPLBACKEND := Agg

.PHONY: demo test test-slow check format docs notebooks bench setup lock wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train a Deep FCN plain, distilled and guided on digits; table and figure in runs/demo"
	@echo "make test       run the tests (JOBS=2)  make test-slow  run the minutes-long ones too"
	@echo "make check      lint, format, types, import directions, spelling"
	@echo "make docs       build the site in build/site"
	@echo "make notebooks  run the notebooks and keep their outputs"
	@echo "make bench      measure speed as ratios make lock       resolve requirements.lock afresh"

# pip would do alone; uv, which the lock pins, is several times faster. pip remains where uv cannot be installed. Bytecode is compiled
# now, once: an import of Lightning compiles five thousand files, in each process where Python may not keep the result.
$(READY): requirements.lock pyproject.toml
	@echo "setting up $(VENV) from requirements.lock (once)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "Tutelage needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) --version); name another: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@grep -A 400 '^uv==' requirements.lock | awk 'NR==1 || /^    --hash/ {print; next} {exit}' > $(VENV)/uv.lock
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock; then \
		$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	@if test -x $(BIN)/uv; then \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

setup: $(READY)

demo: $(READY)
	@$(BIN)/tutelage train sweep=demo

test: $(READY)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: $(READY)
	@$(BIN)/python -m pytest -m "slow or not slow"

check: $(READY)
	@$(BIN)/ruff check src tests docs/reference.py
	@$(BIN)/ruff format --check src tests docs/reference.py
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell src conf experiments docs README.md CONTRIBUTING.md

format: $(READY)
	@$(BIN)/ruff check --fix src tests docs/reference.py
	@$(BIN)/ruff format src tests docs/reference.py

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "the site: build/site/index.html"

notebooks: $(READY)
	@$(BIN)/python notebooks/refresh.py

bench: $(READY)
	@$(BIN)/python -m tutelage.bench

lock:
	@$(BIN)/uv pip compile pyproject.toml --group dev --group docs --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock

wheel: $(READY)
	@$(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf $(VENV) build dist
