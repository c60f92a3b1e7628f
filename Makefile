# One vocabulary for people, hooks and CI. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
# without compiled bytecode every step would compile its imports again: 20 s instead of 6 s for keras
unexport PYTHONDONTWRITEBYTECODE
PYTEST := pytest -q --numprocesses $(or $(JOBS),2) --no-loadscope-reorder
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help setup run smear-dataset compile run-kfp test test-fast check format bench lock image-locks deps report mlflow clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/ready ## make .venv from requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cytoloop needs Python 3.11 or newer; give it by make PYTHON=..."; exit 1; }
	@echo "installing into .venv (a few minutes, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch .venv/ready

run: setup ## run the pipeline; RECIPE=leukemia SOURCE=path for real pictures
	@if [ -n "$(RECIPE)" ]; then cytoloop recipe use "$(RECIPE)" $(if $(SOURCE),--source "$(SOURCE)") $(if $(FORCE),--force); fi
	@dvc repro && cytoloop status

smear-dataset: setup ## compose smears into data/smear; TRAIN=65350 VALID=6560 TEST=6560
	cytoloop smear --train $(or $(TRAIN),65350) --valid $(or $(VALID),6560) --test $(or $(TEST),6560)

compile: setup ## pipelines for a cluster, in build/; IMAGE=name:tag SITE=infra/sites/name.yaml
	python -m pipelines.compile --image "$(IMAGE)" --site "$(or $(SITE),infra/sites/example.yaml)" --output build

run-kfp: setup ## run the compiled training pipeline here, by KFP's own local runner
	python -m pipelines.compile --image "cytoloop-python:$$(cytoloop --version | cut -d' ' -f2)" --site infra/sites/local.yaml --output build/local
	python -m pipelines.local build/local/training.yaml work/kfp

test: setup ## all tests but the contracts, which are part of check; the fast ones first. JOBS=2 at a time
	$(PYTEST) tests/unit tests/property tests/steps
	$(PYTEST) tests/pipeline tests/integration

test-fast: setup ## the tests that take seconds
	$(PYTEST) -m "not slow" tests/unit tests/property tests/steps tests/contract

check: setup ## format, lint, types, import direction, dvc.yaml's dependencies
	ruff format --check .
	ruff check .
	mypy
	$(PYTEST) tests/contract

format: setup ## format and fix what can be fixed
	ruff format .
	ruff check --fix .

bench: setup ## the measurements (minutes)
	@for file in tests/benchmarks/*.py; do echo "== $$file"; PYTHONPATH=. python $$file || exit 1; done

deps: setup ## write each stage's import closure into dvc.yaml
	python -m pipelines.dvc_deps --write

lock: setup ## compile requirements.lock from pyproject.toml
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml

image-locks: setup ## compile the image's lock files, with the versions of requirements.lock
	$(COMPILE) --extra cluster --constraints requirements.lock --output-file infra/image/requirements-cpu.lock pyproject.toml
	$(COMPILE) --extra cluster --constraints requirements.lock --output-file infra/image/requirements-gpu.lock pyproject.toml infra/image/gpu.in

mlflow: setup ## look at the runs and models in a browser
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

clean: ## remove results (not .venv, not the DVC cache)
	rm -rf data models reports work
