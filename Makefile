# `make train` and `make test` work on a fresh machine with Python 3.11 to 3.13; the second call installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= cgan
PRESET ?= $(MODEL)-fast
ARGS ?= --epochs 3
OUT ?= stress
REV ?= main
FULL ?=

.PHONY: same-as train unit test browser cluster test-slurm cuda-check test-gpu test-slow stress lint install bench gpu-wheels gpu-report reference docs dist clean

train: $(VENV)/.installed  ## train the fast preset of MODEL (vanilla or cgan), or any PRESET, with further flags in ARGS
	$(BIN)/distgan train --preset $(PRESET) $(ARGS)

unit: $(VENV)/.installed-dev  ## unit tests: they start no process, need no data, and take a minute
	$(BIN)/python -m pytest tests/unit -n 2

test: $(VENV)/.installed-dev lint browser cluster  ## everything that CI checks
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

browser:  ## Chromium for the tests of HTML pages: CI installs Debian's; elsewhere the tests are skipped without it
	@command -v chromium || command -v chromium-browser || command -v google-chrome || test "$$CI" != true || \
		{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium >/dev/null; }

cluster:  ## SLURM for the tests of jobs: CI installs Debian's; elsewhere the tests are skipped without it
	@test "$$CI" != true || tests/slurm/install.sh

test-slurm: $(VENV)/.installed-dev  ## jobs on a SLURM cluster of two namespaces; as root it installs missing packages; 12 minutes on two cores
	@test "$$(id -u)" != 0 || tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm

cuda-check: $(VENV)/.installed-dev  ## CUDA engines without a GPU, by a stand-in for the driver: prints `nodes PRESET PRECISION ENGINE N`, and broken rules
	$(BIN)/python -m pytest -n auto --dist load tests/integration/test_cuda_stand_in.py tests/slow/test_cuda_stand_in.py

test-gpu: $(VENV)/.installed-dev  ## tests that need a GPU
	$(BIN)/python -m pytest tests/gpu

test-slow: $(VENV)/.installed-dev  ## slow tests: the presets at length, stress, more recipes
	$(BIN)/python -m pytest tests/slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict examples/train_from_python.py examples/sweep.py
	$(BIN)/lint-imports
	$(BIN)/shellcheck --external-sources slurm/*.sh tests/slurm/*.sh

reference: $(VENV)/.installed-dev  ## generate the reference pages of docs/ from the code
	$(BIN)/python docs/generate_reference.py

docs: reference $(VENV)/.installed-docs  ## the pages of docs/ as a site, in site/; a dead link or a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(VENV)/.installed-dist  ## build and check wheel and sdist in dist/; run README's commands by the installed wheel. FULL=1 installs torch too
	$(BIN)/python tests/check_dist.py $(if $(FULL),--full)

bench: $(VENV)/.installed-dev  ## seconds per epoch against plain loops, and start-up; DISTGAN_DATA names the data
	$(BIN)/distgan bench throughput --peers
	$(BIN)/python benchmarks/startup.py

gpu-wheels:  ## packages for gpu-report on a machine with torch and Python 3.12 but no network, into .gpu-wheels (under 10 MB)
	rm -rf .gpu-wheels
	$(PYTHON) -m pip install --quiet --no-compile --no-warn-conflicts --target .gpu-wheels --only-binary=:all: --python-version 3.12 --implementation cp \
		--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 pydantic filelock

# No prerequisite: a machine with a GPU may have torch already, and no network.
gpu-report: OUT = gpu-report
gpu-report:  ## all GPU measurements, in 8 minutes, into OUT (new); DISTGAN_DATA names the data
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_report.py --out $(OUT)

same-as: $(VENV)/.installed-dev  ## check that this tree trains bit-identically to REV; FULL=1 at full width
	$(BIN)/python benchmarks/same_as.py $(REV) $(if $(FULL),--full)

stress: $(VENV)/.installed-dev  ## 300 kills, 2,000 damaged checkpoints, and the time of a save, into OUT; about half an hour on two cores
	$(BIN)/python benchmarks/stress.py --out $(OUT)

install: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"distgan needs Python 3.11 to 3.13; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.installed-dist: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dist]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
