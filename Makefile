# make reproduce   execute every notebook on the packaged photos and build the pages: outputs/site
# make site        build the pages of what is executed, and say how to serve them
# make test        run the quick tests, seven minutes on two cores
# make test-all    run all tests that download nothing, then those of the backends once more on JAX
# make lab         open the notebooks in JupyterLab
# make figures     reproduce, then publish the figures to figures/
# make lock        bring requirements.lock up to pyproject.toml (UPGRADE=--upgrade: to the newest)
# make clean       remove .venv, caches, the pages and the outputs of the profiles quick and smoke
#
# Each of them first builds .venv, when it is missing or older than requirements.lock: with uv
# where there is one (`make UV=` does without), else with Python's own venv and pip.

BIN    := .venv/bin
UV     := $(shell command -v uv 2>/dev/null)
# Compiled once: else each process compiles TensorFlow anew where Python may write no bytecode.
PIP     = $(if $(UV),$(UV) pip install --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install)
# The first Python that is new enough; `make PYTHON=...` names another.
FITS    = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON  = $(shell for p in python3 python3.13 python3.12 python3.11; do \
            $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

.PHONY: help .venv reproduce site test test-all lab figures lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

reproduce: .venv
	$(BIN)/python notebooks/run.py $(ARGS)

site: .venv
	$(BIN)/python notebooks/run.py --site $(ARGS)

# The quick tests wait much for browsers and servers: three processes keep two cores busy.
WORKERS = 2
# They start hundreds of Pythons, each of which would compile our modules anew without bytecode.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: WORKERS = 3
test: .venv
	$(PYTEST)
	@echo "These were the quick tests; make test-all runs all of them."

# For the tests' small programs JAX takes longer to optimize than to run.
test-all: .venv
	$(PYTEST) -m "not network" --durations 40
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "backend and not network" \
	  $$(grep -l mark.backend tests/test_*.py)

# Uploads to a notebook come in one message, of which the server takes 10 MB else.
UPLOADS = --ServerApp.tornado_settings='{"websocket_max_message_size": 1000000000}'

# JupyterLab saves outputs into the notebooks; .gitattributes names this filter, which leaves them
# out of what git compares and commits.
lab: .venv
	@git config filter.nbstripout.clean "$(BIN)/nbstripout --keep-id" 2>/dev/null && echo \
	  "Git leaves out the outputs of notebooks in this clone (git config --unset filter.nbstripout.clean ends it)." || true
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(UPLOADS)

figures: .venv
	$(BIN)/python notebooks/run.py --profile quick --figures figures

.venv: .venv/ready

# Two steps, for pip checks hashes of everything or of nothing, and a folder has none. The second
# builds with the setuptools of the first, so that nothing unlocked is downloaded.
.venv/ready: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	$(if $(UV),$(UV) venv --seed .venv,$(if $(PYTHON),$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; },\
	  $(error colorlib needs Python 3.11, 3.12 or 3.13: install one, or uv, and run make again)))

# One version of a package for all platforms and Pythons. Versions stay as they are where they fit.
# Of backports-strenum, later releases refuse Python 3.11 and newer, which uv overlooks and pip
# doesn't. In [tool.uv] the bound would make `uv pip install --require-hashes` refuse the lock.
lock:
	echo "backports-strenum<1.3" | uv pip compile --constraint - pyproject.toml --extra cluster --extra heic --extra jax --extra study --extra site --extra dev --quiet --universal \
	  --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --custom-compile-command "make lock" $(UPGRADE) --output-file requirements.lock

# runs/ (training runs) and outputs/full stay: they may have taken days.
clean:
	@git config --unset filter.nbstripout.clean 2>/dev/null || true
	rm -rf .venv outputs/quick outputs/smoke outputs/site build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
