# One vocabulary for people, hooks and CI. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
# without compiled bytecode every step would compile its imports again: 20 s instead of 6 s for keras
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run smear-dataset test test-fast check format bench lock deps report mlflow clean

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

test: setup ## all tests, the fast ones first
	pytest -q tests/unit tests/property tests/steps tests/contract
	pytest -q tests/pipeline tests/integration

test-fast: setup ## the tests that take seconds
	pytest -q -m "not slow" tests/unit tests/property tests/steps tests/contract

check: setup ## format, lint, types, import direction, dvc.yaml's dependencies
	ruff format --check .
	ruff check .
	mypy
	pytest -q tests/contract

format: setup ## format and fix what can be fixed
	ruff format .
	ruff check --fix .

bench: setup ## the measurements (minutes)
	@for file in tests/benchmarks/*.py; do echo "== $$file"; python $$file || exit 1; done

deps: setup ## write each stage's import closure into dvc.yaml
	python -m pipelines.dvc_deps --write

lock: setup ## compile requirements.lock from pyproject.toml
	uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock pyproject.toml

mlflow: setup ## look at the runs and models in a browser
	mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

clean: ## remove results (not .venv, not the DVC cache)
	rm -rf data models reports work
