# Two-stage generative models with discrete codes. `make` alone lists what there is.
#   EXPERIMENT=mnist   what to train, and what to work on; without RUN, digits
#   RUN=NAME           the run runs/NAME: continued, extracted, evaluated, sampled with its own saved configuration
#   DATA="FOLDER"      the data's folder, any characters: ~/Pictures/été (2024)
#   ARGS="..."         settings KEY=VALUE or flags of the command
ARGS ?=
N ?= 64
SET ?= mnist
STUDY ?= beta
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SPEECH := $(VENV)/.speech
VIDEO := $(VENV)/.video
BENCH := $(VENV)/.bench
# a process a core, each on one thread; a file's tests stay together, since they share a trained run
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder
# The shell reads RUN and DATA from the environment, so that no character of theirs means anything to it.
export RUN DATA
CHOICE = $(if $(EXPERIMENT),experiment=$(EXPERIMENT)) $(if $(RUN),"run=$$RUN") $(if $(DATA),"data.root=$$DATA") $(ARGS)
FLAGS = $(if $(RUN),--run "$$RUN") $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-audio demo-video doom-data stage1 extract-codes stage2 sample evaluate doctor report export explorer \
	import-codes export-codes list-runs compare study lint test test-all bench bench-curves gpu-check gpu-check-cpu gpu-wheels clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(READY)  ## virtual environment .venv with the pinned packages and this project, editable

demo: $(READY)  ## both stages, samples and figures on bundled handwritten digits: minutes on two cores
	$(PY) pipelines/demo.py $(ARGS)

$(SPEECH): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,speech]'
	@touch $@

demo-audio: $(SPEECH)  ## both stages, samples and speaker conversions of synthetic speech: ten minutes on two cores
	$(PY) pipelines/demo.py --audio $(ARGS)

demo-video: $(READY)  ## both stages on walks in a simulated room, continued under given actions: minutes on two cores
	$(PY) pipelines/demo.py --video $(ARGS)

$(VIDEO): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,video]'
	@touch $@

doom-data: $(VIDEO)  ## walks through two places of Doom, for data=doom: ARGS="--episodes 8 --frames 100"
	$(PY) pipelines/make_doom_data.py $(ARGS)

stage1: $(READY)  ## train the autoencoder: make stage1 EXPERIMENT=imagenet128 DATA="~/Pictures" RUN=photos ARGS="data.size=64"
	$(PY) pipelines/train_stage1.py $(CHOICE)

extract-codes: $(READY)  ## write the discrete code data set of the trained autoencoder: make extract-codes RUN=photos
	$(PY) pipelines/extract_codes.py $(CHOICE)

stage2: $(READY)  ## fit the prior on the codes
	$(PY) pipelines/train_stage2.py $(CHOICE)

evaluate: $(READY)  ## measure a run: bits/dim, perplexity, NMSE, PSNR, SSIM, prior bits -> metrics.json
	$(PY) pipelines/evaluate.py $(CHOICE)

compare: $(READY)  ## train a set of systems, one table of all: make compare SET=cifar10 ARGS="--only VAE VQ-VAE stage1.steps=500"
	$(PY) pipelines/compare.py $(SET) $(ARGS)

study: $(READY)  ## the same with a setting varied: make study STUDY=beta (capacity, codebook, large_codebooks, quantisers)
	$(PY) pipelines/compare.py $(STUDY) $(ARGS)

sample: $(READY)  ## N=64 samples of the run trained last, or of RUN=NAME
	$(PY) pipelines/sample.py --n $(N) $(FLAGS)

doctor: $(READY)  ## what is wrong with a run, in words, and the setting to change: make doctor RUN=photos; status 1: findings
	$(PY) pipelines/doctor.py $(FLAGS)

report: $(READY)  ## one HTML file on a run: figures, curves, samples, codebook, file sizes: make report RUN=photos
	$(PY) pipelines/report.py $(FLAGS)

export: $(READY)  ## encoder, decoder and a step of the prior for torch.export and ONNX: make export RUN=mnist ARGS="--data-root FOLDER"
	$(PY) pipelines/export_model.py $(FLAGS)

import-codes: $(READY)  ## token files of another program as a run: make import-codes RUN=tokens ARGS="--input tokens.npy"
	$(PY) pipelines/import_codes.py $(FLAGS)

export-codes: $(READY)  ## codes of a run as files for other programs: make export-codes RUN=mnist ARGS="--format npz --output codes"
	$(PY) pipelines/export_codes.py $(FLAGS)

list-runs: $(READY)  ## the runs there are: age, steps, main figures, size; ARGS="--remove NAME" removes one
	$(PY) pipelines/list_runs.py $(ARGS)

explorer: $(READY)  ## a run in the browser, on this machine alone: make explorer RUN=mnist
	$(PY) pipelines/explore.py $(FLAGS)

lint: $(READY)  ## style, likely errors (ruff) and types (mypy)
	$(PY) -m ruff check .
	$(PY) -m mypy

test: $(READY)  ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests
	$(PYTEST)

$(BENCH): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(BENCH)  ## time and memory of everything, against floor and rivals: make bench ARGS="--only quantizer --device cuda"
	$(PY) -m benchmarks $(ARGS)

bench-curves: $(BENCH)  ## time over image size, K, layers, batch and clip length: plots in docs/bench
	$(PY) -m benchmarks --curves docs/bench $(ARGS)

gpu-check:  ## on one card, at most 8 minutes: every GPU path, then speed; WHEELS=FOLDER ARGS="--only reference"
	@$(PYTHON) -m benchmarks.gpu_check $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

gpu-check-cpu: $(READY)  ## the same without a GPU, at small sizes: proves that the check itself runs
	@$(PY) -m benchmarks.gpu_check --device cpu $(ARGS)

gpu-wheels: $(READY)  ## build/gpu-wheels: packages for a machine that has torch but no index, for gpu-check
	@$(PY) -m benchmarks.gpu_check.wheels build/gpu-wheels $(ARGS)

clean:  ## remove the virtual environment (runs stay)
	rm -rf $(VENV)
