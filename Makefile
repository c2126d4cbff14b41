# make demo   set up and show the whole line once
# make test   set up and run the tests
# Both may be run first, in any order, and again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's own CPU index may be named here, where pip would otherwise take a CUDA build.
TORCH_INDEX_URL ?=
STUDY ?=
LOOP ?=
OHIF_TARBALL ?=
SYSTEM_PACKAGES := orthanc orthanc-dicomweb orthanc-gdcm dcmtk dicom3tools \
  libpixelmed-java pixelmed-apps default-jre-headless chromium postgresql

.PHONY: help setup system weights peers ohif viewer-build demo test test-fast vit-full chaos lint format bench pictures lock train evaluate train-medsam evaluate-medsam atlas data clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## Make .venv with everything that radloop needs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "radloop needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX_URL),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX_URL) torch==2.13.0)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

system:  ## Install Orthanc, Chromium, dcmtk and the DICOM validators with apt-get (Debian, as root)
	@missing=; for p in $(SYSTEM_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
	  echo "not installed:$$missing"; \
	  echo "Install them (as root: apt-get install$$missing); the demo goes on with its built-in archive, tests that need them are skipped."; \
	  exit 0; fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	|| echo "apt-get could not install:$$missing"

weights: setup  ## Fetch the weights that don't come with radloop (39 MB, once)
	@$(BIN)/radloop bundles fetch medsam_lite || echo "Without them 'radloop segment' can't run and its tests are skipped."

PEERS := transformers|tokenizers|huggingface-hub|safetensors|regex

peers: setup  ## Packages that only tests compare with, into var/peers (150 MB, once; apart from .venv)
	@test -e var/peers/.installed || { $(BIN)/python -m pip install --quiet --no-deps --upgrade --target var/peers \
	  $$(grep -E '^($(PEERS))==' constraints.txt) && touch var/peers/.installed; } || echo "Without them the tests that compare with transformers are skipped."

ohif: setup  ## Fetch the OHIF viewer from npm into var/ohif (50 MB, once; OHIF_TARBALL=file: offline)
	@$(BIN)/python -m app.viewer.fetch --to var/ohif $(if $(OHIF_TARBALL),--tarball '$(OHIF_TARBALL)')

viewer-build: setup
	@$(MAKE) --silent ohif || echo "Without it there is no viewer, and its test is skipped."

demo: setup system weights viewer-build  ## Make a patient, send it, show SEG, SR and overlays (STUDY=dir: your own; LOOP=1: learn too)
	$(BIN)/radloop demo $(if $(STUDY),--study '$(STUDY)') $(if $(LOOP),--loop)

test: setup system weights peers viewer-build  ## Run all tests (RADLOOP_DATA names the folder of real images)
	$(BIN)/python -m pytest -n auto

test-fast: setup weights peers  ## Run the tests that need no server
	$(BIN)/python -m pytest -n auto --ignore tests/e2e

vit-full: setup peers  ## Compare ViT-B at its full size with transformers (minutes, 4 GB)
	$(BIN)/python -m tests.operators.vit_full

chaos: setup system  ## Kill service, listener, worker and Orthanc 200 times at random (RADLOOP_CHAOS_SEED repeats a run)
	RADLOOP_CHAOS_KILLS=$${RADLOOP_CHAOS_KILLS:-200} $(BIN)/python -m pytest -s tests/e2e/test_chaos.py

lint: setup  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Measure against peers; writes benchmarks/*/RESULTS.md
	$(BIN)/python -m benchmarks.evidence $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.serve $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.ingest $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.scale $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.models $(BENCH_ARGS)

pictures: setup  ## Make the pictures of docs/evidence.md again from the demo patient (minutes)
	$(BIN)/python -m app.demo.contact_sheet

lock: setup  ## Make constraints.txt again from pyproject.toml
	echo '# Made by: make lock. Versions only; used with pip (-c) and uv alike.' > constraints.new
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --python-version 3.11 --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links >> constraints.new
	mv constraints.new constraints.txt

BUNDLE := bundles/head_neck_oar_ct
BUNDLE_RUN = PYTHONPATH=$(BUNDLE) $(BIN)/python -m monai.bundle run --bundle_root $(BUNDLE) \
  --logging_file $(BUNDLE)/configs/logging.conf

train: setup data  ## Train head_neck_oar_ct from RADLOOP_DATA (an hour or more on 2 cores; resumes)
	$(BUNDLE_RUN) --config_file $(BUNDLE)/configs/train.yaml

evaluate: setup data  ## Measure head_neck_oar_ct on its frozen test list
	$(BUNDLE_RUN) --config_file "['$(BUNDLE)/configs/inference.yaml', '$(BUNDLE)/configs/evaluate.yaml']"

MEDSAM := bundles/medsam_lite_ct_mr
# Freed memory is kept: page faults would take half of the encoder's time.
MEDSAM_RUN = MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 \
  PYTHONPATH=$(MEDSAM) $(BIN)/python -m scripts.run $(MEDSAM)

train-medsam: setup weights data  ## Tune LiteMedSAM's mask decoder from RADLOOP_DATA (resumes; RADLOOP_MEDSAM_CACHE: where)
	$(MEDSAM_RUN) train

evaluate-medsam: setup weights data  ## Measure it on frozen test lists; writes its README and calibration (resumes)
	$(MEDSAM_RUN) train evaluate

atlas: setup data  ## Make the demo's population atlas again from RADLOOP_DATA
	cd $(BUNDLE) && $(abspath $(BIN))/python -m scripts.build_atlas --data $(RADLOOP_DATA)/openkbp-hn-ct --out atlas

data:
	@test -d "$(RADLOOP_DATA)/openkbp-hn-ct" || { echo "RADLOOP_DATA must name a folder that holds openkbp-hn-ct (ct/, label/, splits.json, labelled.json)"; exit 1; }

clean:  ## Remove what was made, the environment too
	rm -rf $(VENV) demo-out var build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
