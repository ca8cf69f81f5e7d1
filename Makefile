# make run | test | check.  PYTHON=python3.x chooses the interpreter; everything lives in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := setup.cfg pyproject.toml
PIP := $(BIN)/python -m pip install -qq --constraint $(VENV)/constraints

.PHONY: run test lint check models bench pi-acceptance clean
.DELETE_ON_ERROR:

run: $(VENV)/.runtime  ## Detect on the first camera found, else on the demo clip; prints the address to open.
	$(BIN)/edge-detector run

test: $(VENV)/.dev  ## Run the tests.
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

check: lint test  ## All that CI checks on one Python.

CALIBRATION ?= ../shared/data/calibration
models: $(VENV)/.convert  ## Make the shipped models again; CALIBRATION is the folder of photos to calibrate on.
	for side in 320 416 640; do \
	  $(BIN)/python tools/quantize models/ssd_resnet50_fpn_person.safetensors --calibration $(CALIBRATION) \
	    --input-size $$side --output models/ssd_resnet50_fpn_person_$${side}_int8.tflite || exit; \
	done

# OPTIONS: such as '--board raspberry-pi-4 --only stages', see tools/bench/README.md.
BENCH ?= bench-results
OPTIONS ?=
bench: $(VENV)/.bench  ## Measure how fast all is on this machine, within the hour; writes into the folder BENCH.
	$(BIN)/python tools/bench --output $(BENCH) --venvs $(VENV)-bench $(OPTIONS)

# INTERACTIVE=1: with steps for a person, such as unplugging. WATCH_S: how long the service is watched.
WATCH_S ?= 60
INTERACTIVE ?=
EDGETPU_MODEL ?=
pi-acceptance: $(VENV)/.accept  ## Try out this machine, cameras and Edge TPU too; writes pi-acceptance-HOST-DATE.md.
	EDGE_DETECTOR_INTERACTIVE=$(INTERACTIVE) EDGE_DETECTOR_EDGETPU_MODEL=$(EDGETPU_MODEL) \
	  $(BIN)/python tests/hardware/acceptance.py --seconds $(WATCH_S)

clean:  ## Remove the environment and what was built.
	rm -rf $(VENV) build dist *.egg-info

# Stamps: pip runs (and needs the network) only when the requirements have changed.
$(VENV)/.runtime: $(SETUP) | $(VENV)/constraints
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.accept: $(VENV)/.runtime
	$(PIP) 'pytest>=8'
	@touch $@

$(VENV)/.convert: $(VENV)/.runtime
	$(PIP) --editable '.[convert]'
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) --editable '.[bench]'
	@touch $@

# libcamera and picamera2 come from apt: where they live, the environment sees the system's packages.
$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: no venv module: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $$($(PYTHON) -c 'import libcamera' 2>/dev/null && echo --system-site-packages) $(VENV)

# What apt built against its numpy, such as picamera2's simplejpeg, has to find that one.
$(VENV)/constraints: | $(BIN)/python
	@$(BIN)/python -c 'import libcamera, numpy; print(f"numpy=={numpy.__version__}")' >$@ 2>/dev/null || true
