# Needs Python >= 3.10, make and git; everything else goes into .venv.
#   make demo    post-train the bundled world model on the bundled data, measure it, render videos
#   make test    run the tests          make lint    check style and types
#   make kernels compile the GPU kernels for sm_80 and sm_90 and inspect them; needs no GPU
#   make setup   only install           make clean   remove caches and runs/demo (.venv stays)
# Another Python: make PYTHON=python3.12 setup

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint kernels setup clean

# The three commands a user would type. Each demo starts afresh, so the last one's files go first.
demo: $(VENV)/.installed
	rm -rf runs/demo
	$(BIN)/vidwm finetune --config configs/finetune_demo.yaml
	$(BIN)/vidwm evaluate --config configs/evaluate_demo.yaml
	$(BIN)/vidwm rollout --config configs/rollout_demo.yaml

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(VENV)/.installed-dev
	$(BIN)/python tools/kernel_report.py

setup: $(VENV)/.installed

clean:
	rm -rf runs/demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find vidwm kernels tests tools -name __pycache__ -prune -exec rm -rf {} +

# A .venv without a working pip (an interrupted set-up) is made anew; a working one is kept.
$(VENV)/.installed: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "vidwm needs Python 3.10 or newer, this is %d.%d: try make PYTHON=python3.12 setup" % sys.version_info[:2])' && \
	    $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $@
