# Two-stage generative models with discrete codes. `make` alone lists what there is.
EXPERIMENT ?= digits
ARGS ?=
N ?= 64
SET ?= mnist
STUDY ?= beta
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SPEECH := $(VENV)/.speech
VIDEO := $(VENV)/.video
BENCH := $(VENV)/.bench
# a process a core, each on one thread; a file's tests stay together, since they share a trained run
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder
CHOICE = experiment=$(EXPERIMENT) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-audio demo-video doom-data stage1 extract-codes stage2 sample evaluate compare study \
	lint test test-all bench bench-curves gpu-check gpu-check-cpu gpu-wheels clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(READY)  ## virtual environment .venv with the pinned packages and this project, editable

demo: $(READY)  ## both stages, samples and figures on bundled handwritten digits: minutes on two cores
	$(RUN) pipelines/demo.py $(ARGS)

$(SPEECH): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,speech]'
	@touch $@

demo-audio: $(SPEECH)  ## both stages, samples and speaker conversions of synthetic speech: ten minutes on two cores
	$(RUN) pipelines/demo.py --audio $(ARGS)

demo-video: $(READY)  ## both stages on walks in a simulated room, continued under given actions: minutes on two cores
	$(RUN) pipelines/demo.py --video $(ARGS)

$(VIDEO): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,video]'
	@touch $@

doom-data: $(VIDEO)  ## walks through two places of Doom, for data=doom: ARGS="--episodes 8 --frames 100"
	$(RUN) pipelines/make_doom_data.py $(ARGS)

stage1: $(READY)  ## train the autoencoder: make stage1 EXPERIMENT=mnist ARGS="train.steps=1000"
	$(RUN) pipelines/train_stage1.py $(CHOICE)

extract-codes: $(READY)  ## write the discrete code data set of the trained autoencoder
	$(RUN) pipelines/extract_codes.py $(CHOICE)

stage2: $(READY)  ## fit the prior on the codes
	$(RUN) pipelines/train_stage2.py $(CHOICE)

evaluate: $(READY)  ## measure a run: bits/dim, perplexity, NMSE, PSNR, SSIM, prior bits -> metrics.json
	$(RUN) pipelines/evaluate.py $(CHOICE)

compare: $(READY)  ## train a set of systems, one table of all: make compare SET=cifar10 ARGS="--only VAE stage1.steps=500"
	$(RUN) pipelines/compare.py $(SET) $(ARGS)

study: $(READY)  ## the same with a setting varied: make study STUDY=beta (capacity, codebook, large_codebooks)
	$(RUN) pipelines/compare.py $(STUDY) $(ARGS)

sample: $(READY)  ## N=64 samples of the run trained last
	$(RUN) pipelines/sample.py --n $(N)

lint: $(READY)  ## style, likely errors (ruff) and types (mypy)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: $(READY)  ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests
	$(PYTEST)

$(BENCH): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(BENCH)  ## time and memory of everything, against floor and rivals: make bench ARGS="--only quantizer --device cuda"
	$(RUN) -m benchmarks $(ARGS)

bench-curves: $(BENCH)  ## time over image size, K, layers, batch and clip length: plots in docs/bench
	$(RUN) -m benchmarks --curves docs/bench $(ARGS)

gpu-check:  ## on one card, at most 8 minutes: every GPU path, then speed; WHEELS=FOLDER ARGS="--only reference"
	@$(PYTHON) -m benchmarks.gpu_check $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

gpu-check-cpu: $(READY)  ## the same without a GPU, at small sizes: proves that the check itself runs
	@$(RUN) -m benchmarks.gpu_check --device cpu $(ARGS)

gpu-wheels: $(READY)  ## build/gpu-wheels: packages for a machine that has torch but no index, for gpu-check
	@$(RUN) -m benchmarks.gpu_check.wheels build/gpu-wheels $(ARGS)

clean:  ## remove the virtual environment (runs stay)
	rm -rf $(VENV)
