# Every everyday command. `make help` lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# Arguments for pytest or the benchmark: make test ARGS="-k scheduler"
ARGS ?=
# Extra arguments for pip install, and an index of prebuilt llama-cpp-python wheels, which skips the compile.
PIP_EXTRA ?=
LLAMA_WHEEL_INDEX ?=
# For a machine with a GPU and without network (docs/gpu.md): the folder of the bundle, a CUDA build of llama_cpp,
# llama-server (may be left out), the machine's version of Python, and the packages that it has itself.
BUNDLE ?= .gpu-bundle
LLAMA_CPP_CUDA ?=
LLAMA_SERVER ?=
GPU_PYTHON ?= 3.12
GPU_PRESENT ?=

BIN := .venv/bin
# A lock file names every package, so pip never resolves anything: a newer release elsewhere cannot change a set-up.
# A wheel compiled with other CMAKE_ARGS may lie in pip's cache: do not take it for this one.
PIP := -m pip --disable-pip-version-check --require-virtualenv
INSTALL := $(PIP) install -qq --no-deps $(if $(CMAKE_ARGS),--no-cache-dir) $(PIP_EXTRA)
LLAMA := $(shell sed -n 's/^\(llama-cpp-python==[^ ]*\).*/\1/p' requirements/worker.txt)

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile)

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: .venv/.dev ## create .venv with pinned, hashed requirements and this package; compiles llama.cpp once

demo: .venv/.package ## chat over HTTP and run a queue job on the embedded model, then stop
	@$(BIN)/python -m tools.demo

test: setup ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-bench: setup ## run whole benchmarks in a small form (minutes; `make test` leaves them out)
	$(BIN)/python -m pytest -m benchmark tests/bench $(ARGS)

test-setup: setup ## set up a new clone while newer releases of everything are offered; exactly the pins must come
	$(BIN)/python -m tests.setup $(ARGS)

models: setup ## fetch the real models of the tests marked `real` (400 MB, once for this user)
	$(BIN)/python -m tools.models

llama-server: setup ## build llama.cpp's own server, the reference of the real tests (minutes, once for this user)
	$(BIN)/python -m tools.llama_server

kill-test: setup ## kill downloading workers at 200 random moments
	$(BIN)/python -m tests.store.kill $(ARGS)

chaos: setup ## 1,000 queue jobs while workers are killed, drained and poisoned and the platform is gone for a minute
	$(BIN)/python -m tests.emulator.chaos $(ARGS)

balancer-test: setup ## restart two workers behind nginx in turn, under load, ten times; nothing may be lost
	$(BIN)/python -m tests.e2e.balancer $(ARGS)

clients-test: setup .venv-clients/.stamp ## agents and libraries of others, each with a tool that is really run
	$(BIN)/python -m tests.clients $(ARGS)

crash-test: setup ## kill 200 engine processes under 1,000 requests; each request must end exactly once
	$(BIN)/python -m tests.e2e.crash $(ARGS)

test-volume: setup ## three workers on a real MooseFS: one download, a killed leader, a master that goes away (needs root)
	$(BIN)/python -m tests.volume $(ARGS)

fuzz-gguf: setup ## bring up damaged models for ten minutes; none may end the worker without a sentence
	$(BIN)/python -m tests.gguf.fuzz $(ARGS)

image-test: setup ## build the image with buildah on a stand-in for its base, start it, ask it (needs root)
	$(BIN)/python -m tests.image

image-check: setup ## lint of the Dockerfile, the workflows and the scripts of the image
	$(BIN)/hadolint Dockerfile
	PATH="$(CURDIR)/$(BIN):$$PATH" actionlint .github/workflows/*.yml
	@! command -v shellcheck >/dev/null || shellcheck image/*

check: setup image-check ## formatting, lint, types, generated docs, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools.docs --check
	$(BIN)/python -m pytest -q tests/test_architecture.py

run: .venv/.package ## serve on 127.0.0.1:8000 until Ctrl-C; MODEL=/path/to/model.gguf or MODEL=org/repo:Q4_K_M for another model
	@MODE=$${MODE:-http} HOST=$${HOST:-127.0.0.1} exec $(BIN)/worker-gguf serve

emulate: .venv/.package ## RunPod's queue on 127.0.0.1:8001 with two real workers, until Ctrl-C; MODEL=... for another model
	@exec $(BIN)/python -m emulator --workers 2 $(ARGS)

bench: setup ## measure the worker against the bare llama_decode loop
	$(BIN)/python -m bench $(ARGS)

bench-cold: setup ## measure the cold start against the fastest read of the file (needs FUSE for most of it)
	$(BIN)/python -m bench.cold $(ARGS)

bench-streams: setup ## measure the processor time of the worker process for a streamed token
	$(BIN)/python -m bench.streams $(ARGS)

bench-swap: setup ## measure two models that take turns where there is room for one
	$(BIN)/python -m bench.swap $(ARGS)

bench-queue: setup ## measure what the queue costs against plain HTTP
	$(BIN)/python -m bench.queue $(ARGS)

gpu-bundle: setup ## pack what a GPU machine without network needs for `make gpu-check`; LLAMA_CPP_CUDA=/path/to/archive
	$(BIN)/python -m bench.gpu_check.bundle "$(BUNDLE)" --llama-cpp "$(LLAMA_CPP_CUDA)" \
		--llama-server "$(LLAMA_SERVER)" --python "$(GPU_PYTHON)" --present "$(GPU_PRESENT)" $(ARGS)

# A machine with a bundle has no .venv, and its python3 may be the one that brings CUDA's libraries.
BUNDLE_IS_USED = $(or $(filter-out file,$(origin BUNDLE)),$(if $(wildcard $(BIN)/python),,yes))
gpu-check: ## check a worker on this machine's GPU, in six minutes; BUNDLE=folder, ARGS="--only bench", ARGS=--cpu
	@$(if $(BUNDLE_IS_USED),$(if $(filter file,$(origin PYTHON)),python3,$(PYTHON)) -m bench.gpu_check \
		--bundle "$(BUNDLE)",$(BIN)/python -m bench.gpu_check) $(ARGS)

bench-serving: setup ## measure shared prefixes, returning conversations, long prompts and lookup, with bounds
	$(BIN)/python -m bench.serving $(ARGS)

bench-routes: setup ## measure the dialects beside chat completions, embeddings, adapters and images, with bounds
	$(BIN)/python -m bench.routes $(ARGS)

bench-structured: setup ## measure structured output and tool calls: speed, compile times, invalid answers, lost calls
	$(BIN)/python -m bench.structured $(ARGS)

soak: setup ## 10,000 mixed requests; the memory of the worker's processes may not grow
	$(BIN)/python -m bench.serving soak $(ARGS)

format: setup ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## write what is generated again: pages of docs/, RunPod's Hub files, the dashboard in deploy/grafana
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tools.grafana

lock: ## compile requirements/*.txt again from pyproject.toml and requirements/build.in
	requirements/lock $(PYTHON)

model: .venv-tools/.stamp ## train the embedded model again
	.venv-tools/bin/python -m tools.embedded $(ARGS)

clean: ## remove the virtual environments, caches and build leftovers
	rm -rf .venv .venv-tools .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# For the tests and the tools of development. `make demo` and `make run` do without, which halves their set-up.
.venv/.dev: .venv/.package requirements/dev.txt
	@$(BIN)/python $(INSTALL) --require-hashes --requirement requirements/dev.txt
	@$(BIN)/python $(PIP) check
	@touch $@

.venv/.package: .venv/.worker pyproject.toml
	@$(BIN)/python $(INSTALL) --no-build-isolation --editable .
	@$(BIN)/python $(PIP) check
	@touch $@

.venv/.worker: requirements/build.txt requirements/worker.txt
	@requirements/preflight "$(PYTHON)" "$(LLAMA_WHEEL_INDEX)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(INSTALL) --require-hashes --requirement requirements/build.txt
	@# A wheel from elsewhere has another hash; once it is installed, the next step finds that version there.
	@$(if $(LLAMA_WHEEL_INDEX),$(BIN)/python $(INSTALL) --only-binary :all: --index-url $(LLAMA_WHEEL_INDEX) $(LLAMA))
	@echo "Installing requirements$(if $(LLAMA_WHEEL_INDEX),,; llama.cpp is compiled unless pip has it already (minutes))."
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python $(INSTALL) --require-hashes --no-build-isolation --requirement requirements/worker.txt
	@touch $@

.venv-clients/.stamp: requirements/clients.txt
	@requirements/preflight "$(PYTHON)" skip
	@test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/python $(PIP) install -qq --no-deps --require-hashes --requirement requirements/clients.txt
	@touch $@

.venv-tools/.stamp: requirements/tools.txt
	@requirements/preflight "$(PYTHON)" skip
	@test -x .venv-tools/bin/python || $(PYTHON) -m venv .venv-tools
	@.venv-tools/bin/python $(PIP) install -qq --no-deps --require-hashes --requirement requirements/tools.txt
	@.venv-tools/bin/python $(PIP) check
	@touch $@
