# make demo    three nodes on this machine answer a prompt together (KEEP=1 keeps them running)
# make quick   lint, types and unit tests, in about two minutes on two cores
# make test    every test; make check: lint and types; make fmt, make bench, make docs
# make up      three nodes in containers (STACK=ollama: one with Ollama on a GPU); make down, rebuild
# make deb     the Debian package in dist/; make apt-repo: a signed repository that apt can use
#
# PYTHON=python3.12 selects the interpreter for a new .venv; PIP_FLAGS is passed to pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# MAKE_TERMOUT is set if the output goes to a terminal: pip's progress is for a reader, not for a log.
PIP := $(BIN)/python -m pip --disable-pip-version-check install \
	$(if $(MAKE_TERMOUT),--progress-bar on,--quiet) -c constraints.txt $(PIP_FLAGS)

# Otherwise each of the thousands of processes that tests start compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

# Unit tests compute: one process per core. The others wait for part of their time: one process more
# than there are cores. One in three of them begins with unit tests (tests/support/runs/scheduling.py).
# Both are limited to what fits the memory of a typical machine. A process that dies is not replaced:
# pytest-xdist would then wait for its tests for ever.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --maxprocesses 8 --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help demo quick unit test check fmt docs bench demo-model demo-picture lock wheelhouse deb apt-repo up down rebuild clean

help:
	@sed -n '1,5p' Makefile

$(BIN)/python:
	@tools/make_venv $(PYTHON) $(VENV)

# The demo needs no developer tools; `make test` adds them to the same environment.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing aitorrentd with torch into $(VENV) (once; minutes; 1.2 GB, several GB with CUDA)"
	@$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing aitorrentd and its developer tools into $(VENV) (once; minutes; 1.5 GB)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	@$(BIN)/python tools/demo.py $(if $(KEEP),--keep)

# Checks run in parallel with the tests: mypy uses only one process.
quick: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check unit

# Many of them wait for half of their time.
unit: $(VENV)/.dev
	TEST_EFFORT=quick $(PYTEST) -n $$((2 * $$(getconf _NPROCESSORS_ONLN))) -m "not slow" $(PYTEST_FLAGS) tests/unit

test: $(VENV)/.dev
	$(PYTEST) -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) $(PYTEST_FLAGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python -m tools.reference

bench: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.all

demo-model: $(VENV)/.run
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.demo_model.train plugins/aitorrent_shards/demo

# The README's picture, from a run of the demo.
demo-picture: $(VENV)/.run
	@$(BIN)/python tools/demo_picture.py --record

# The exact files, by hash, that the Debian package contains and that build it.
lock: $(VENV)/.dev
	for part in pyproject.toml:requirements packaging/debian/build.in:build; do \
		$(BIN)/uv pip compile --quiet $${part%:*} -c constraints.txt --generate-hashes \
			--python-version 3.11 --no-header --no-annotate --no-emit-index-url \
			--no-emit-find-links -o packaging/debian/$${part#*:}.lock || exit 1; \
	done

# Wheels for the package, fetched once; the package is then built from them offline.
wheelhouse:
	@packaging/wheelhouse dist/wheelhouse

deb: wheelhouse
	@packaging/build-deb dist

apt-repo: deb
	@packaging/apt-repo dist/apt dist/*.deb

# Containers; see docs/containers.md.
up down rebuild:
	@packaging/container/stack $@ $(STACK)

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache dist
