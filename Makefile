# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CORRUPTIONS_STAMP := .venv-corruptions/.installed
EPOCHS ?= 3
IMAGES ?= 1000
DATA ?=
FASHION_MNIST ?= /usr/share/datasets/fashion-mnist
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONWARNINGS ?= ignore
# Waiting threads yield: cores may be shared with other work.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup run test lint types layers unit repro compile compare-fashion check-runners check-resume bench-autoattack check-autoattack check-masking check-corruptions picture lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install Temper and its locked dependencies into .venv

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.x" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=26,<27'
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP) ## Run the whole pipeline on the embedded digits and print the verdict
	@temper run

test: $(STAMP) lint types layers unit ## Set up, check style, types and layers, run the tests

lint: $(STAMP) ## Check style (ruff)
	@ruff format --check --quiet . && ruff check --quiet .

types: $(STAMP) ## Check types (mypy, strict)
	@mypy && mypy tests

layers: $(STAMP) ## Check that imports point downward (import-linter)
	@lint-imports --no-cache | tail -n 2

unit: $(STAMP) ## Run the tests
	@unset PYTHONWARNINGS; pytest

repro: $(STAMP) ## Run the same steps as DVC stages (dvc repro)
	@dvc repro

compile: $(STAMP) ## Compile the Kubeflow pipeline to build/pipeline.yaml
	@temper compile

check-runners: $(STAMP) ## Run the pipeline by temper run, dvc repro and kfp, and compare every digest (about 5 minutes)
	@python -m pipelines.checks runners

check-resume: $(STAMP) ## Kill the student's training in its second phase, resume, compare the digests
	@python -m pipelines.checks resume

bench-autoattack: $(STAMP) ## Time our AutoAttack against the public one and compare every verdict (IMAGES=1000)
	@python -m pipelines.autoattack_bench --images $(IMAGES) $(if $(DATA),--data $(DATA))

check-autoattack: $(STAMP) ## Hold every attack in every norm against the public AutoAttack with 3 seeds (IMAGES=1000)
	@python -m pipelines.autoattack_parity --images $(IMAGES) $(if $(DATA),--data $(DATA))

check-masking: $(STAMP) ## Check that masked models are caught and honest ones pass (about 5 minutes)
	@python -m pipelines.masking_check

$(CORRUPTIONS_STAMP): infra/check-corruptions.txt
	$(PYTHON) -m venv .venv-corruptions
	.venv-corruptions/bin/python -m pip install --quiet --no-deps -r infra/check-corruptions.txt
	@touch $@

check-corruptions: $(STAMP) $(CORRUPTIONS_STAMP) ## Hold every corruption against the package imagecorruptions (about 2 minutes)
	@python -m pipelines.corruption_check

compare-fashion: $(STAMP) ## Compare the training methods on Fashion-MNIST and renew the README's table (about 35 minutes)
	@python -m pipelines.comparison --data $(FASHION_MNIST) --epochs $(EPOCHS) --readme README.md

picture: $(STAMP) ## Draw the README's picture from the latest run
	@python -m pipelines.picture "$$(dirname "$$(ls -td runs/*/registration | head -n 1)")" infra/pictures/digits.png

lock: ## Renew requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --group dev pyproject.toml \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	  | sed -E -e '/^(nvidia-|triton|cuda-)/d' -e 's/^(torch==[0-9.]+).*/\1/' | LC_ALL=C sort -u > requirements.lock

clean: ## Remove what runs and tests made; keeps .venv and .temper
	rm -rf build artefacts runs .mypy_cache .ruff_cache .pytest_cache
