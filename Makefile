# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs, in .venv, and reuses it the next time.
#   make demo | test | bench | bench-sweep | bench-roofline | bench-check | bench-ops | bench-optimize
#        lint | format | sanitize | setup | clean | distclean
#   make gpu-check | gpu-probe | gpu-sanitize | gpu-bench | gpu-build   on a machine with a GPU, without setting up .venv
#   PYTHON=python3.12   the interpreter that .venv is made from (once)
#   TORCH='torch==2.9.1'   what is given to pip for PyTorch; another value installs another torch
#   TRITON='triton==3.5.1' the same for Triton, where PyTorch's wheel has brought none
#   GPU_PYTHON=python3     the interpreter of the gpu targets, with torch and pytest; .venv's where there is one

PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.6.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMPS := $(VENV)/stamps
# Folders count too: a file that goes away changes its folder's time only.
NATIVE := $(shell find csrc -not -name '.*')
CPP := $(shell find csrc -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# A list of pyproject.toml, one requirement a line.
LISTED = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: setup test demo bench bench-sweep bench-roofline bench-check bench-ops bench-optimize lint sanitize format clean distclean FORCE
.PHONY: gpu-build gpu-probe gpu-check gpu-sanitize gpu-bench

setup: $(STAMPS)/native

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: setup
	$(BIN)/python -m benchmarks.demo

# Networks and layers; without BENCH_ARGS the sweep and the roofline too.
bench: setup $(STAMPS)/bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,$(BIN)/python -m benchmarks.sweep && $(BIN)/python -m benchmarks.roofline)

# Time per pixel against size, about a minute and a half.
bench-sweep: setup
	$(BIN)/python -m benchmarks.sweep $(BENCH_ARGS)

# The layers beside what the machine can multiply and move, about half a minute.
bench-roofline: setup
	$(BIN)/python -m benchmarks.roofline $(BENCH_ARGS)

# Ratios to the peers against the committed ones of this machine; exits with 1 where one regressed.
bench-check: setup $(STAMPS)/bench
	$(BIN)/python -m benchmarks --check $(BENCH_ARGS)

# One layer, one function at a time, under pytest-benchmark; BENCH_ARGS="-k prelu" chooses.
bench-ops: setup
	$(BIN)/python -m pytest benchmarks/bench_ops.py --benchmark-only $(BENCH_ARGS)

# sr_kernels.optimize on our networks and, where spandrel is installed, on those that it has.
bench-optimize: setup
	$(BIN)/python -m benchmarks.optimize $(BENCH_ARGS) && $(BIN)/python -m benchmarks.optimize --readme
	$(BIN)/python -m benchmarks.calls

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# The kernels' tests under the address and undefined-behaviour sanitizers, on a build of its own.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED := build/sanitized
sanitize: setup
	CXXFLAGS='-O1 -g $(SANITIZERS)' LDFLAGS='$(SANITIZERS)' SR_KERNELS_BUILD_NATIVE=1 \
	    SR_KERNELS_CUDA_ARCHS=none \
	    $(BIN)/python setup.py --quiet build --build-lib $(SANITIZED)
	rm -rf $(SANITIZED)/tests && cp -r tests pyproject.toml $(SANITIZED)
	export LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)"; \
	    export ASAN_OPTIONS=detect_leaks=0; cd $(SANITIZED); \
	    $(CURDIR)/$(BIN)/python -c 'from sr_kernels import _C; assert "$(SANITIZED)" in _C.__file__'; \
	    $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider tests/native/test_kernels.py

# The targets of a GPU machine install nothing: they run this tree with the packages that the interpreter has.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_WORKERS ?= 12# of pytest, where pytest-xdist is there
GPU_SECONDS ?= 240# after which gpu-check ends, with what it has found
gpu-check gpu-sanitize gpu-bench: export PYTHONUNBUFFERED := 1

# Without the extension everything but the CUDA backend works; GPU_BUILD= leaves it alone.
GPU_BUILD ?= 1
gpu-build:
	@if [ -n "$(GPU_BUILD)" ]; then \
	    $(GPU_PYTHON) setup.py --quiet build_ext --inplace || echo "the extension was not built" >&2; fi

# Programs of their own for a Hopper GPU, with nvcc: what its descriptors mean, and its kernels beside a plain one, NaN
# in their outputs beforehand and canaries around them.
NVCC_SM90 = nvcc -gencode=arch=compute_90a,code=sm_90a -O3 -std=c++17 -Icsrc
gpu-probe:
	@if command -v nvcc >/dev/null && nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -q '^9\.0'; then \
	    mkdir -p build; set -x; \
	    $(NVCC_SM90) csrc/cuda/probe_descriptors.cu -o build/probe; $(NVCC_SM90) csrc/cuda/bench_sm90.cu -o build/driver; \
	    for what in copy swizzled planes rate; do timeout 30 build/probe $$what; done; timeout 60 build/driver check; \
	else echo "no probe: it needs nvcc and a Hopper GPU"; fi

# Results beside float64's, streams, graphs, threads, models; -k, -x, --gpu-all by PYTEST_ARGS.
HAS_GPU = import sys, torch; \
    sys.exit(None if torch.cuda.is_available() else "no CUDA device: PYTEST_ARGS=\"--gpu-device cpu\" tries the tests")
gpu-check: gpu-build gpu-probe
	@$(if $(findstring --gpu-device,$(PYTEST_ARGS)),,$(GPU_PYTHON) -c '$(HAS_GPU)')
	workers=$$($(GPU_PYTHON) -c 'import xdist' 2>/dev/null && echo '-n $(GPU_WORKERS)' || true); \
	    timeout --signal=INT --kill-after=20 $(GPU_SECONDS) \
	    $(GPU_PYTHON) -m pytest tests/gpu -q --tb=short --show-capture=no $$workers $(PYTEST_ARGS)

# The four tools of compute-sanitizer over small shapes, each with its time limit.
SANITIZER_TOOLS ?= memcheck racecheck initcheck synccheck
SANITIZER_SECONDS ?= 100
gpu-sanitize: gpu-build
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not found" >&2; exit 1; }
	@failed=; for tool in $(SANITIZER_TOOLS); do echo "== $$tool"; \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout --kill-after=10 $(SANITIZER_SECONDS) \
	    compute-sanitizer --tool $$tool --error-exitcode 9 --print-limit 20 \
	    $(GPU_PYTHON) -m tests.gpu.sanitize $(SANITIZE_ARGS) || failed="$$failed $$tool"; done; \
	    if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

# Layers and networks beside eager and torch.compile; python -m benchmarks.gpu --help tells GPU_BENCH_ARGS.
gpu-bench: gpu-build
	$(GPU_PYTHON) -m benchmarks.gpu $(GPU_BENCH_ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Networks of others, to optimise in tests. Of what it asks for torchvision alone is left out, of which it uses a few names
# and which would bring another PyTorch.
SPANDREL := spandrel==0.4.*

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) is not found: install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments (no ensurepip); on Debian and Ubuntu:" \
	         "apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Holds the value of TORCH that was installed; rewritten, and so newer, only when that value changes.
$(STAMPS)/torch: $(STAMPS)/venv FORCE
	@if [ "$$(cat $@ 2>/dev/null)" != '$(TORCH)' ]; then \
	    rm -f $@; set -x; $(PIP) install '$(TORCH)'; \
	    $(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) install '$(TRITON)'; echo '$(TORCH)' >$@; fi

$(STAMPS)/build-tools: $(STAMPS)/torch pyproject.toml
	$(call LISTED,["build-system"]["requires"]) | $(PIP) install --quiet --requirement /dev/stdin
	@touch $@

# The Python part and the tools; the extension follows by itself, so that a change of csrc costs a build only.
$(STAMPS)/package: $(STAMPS)/build-tools pyproject.toml
	SR_KERNELS_BUILD_NATIVE=0 $(PIP) install --no-build-isolation --editable '.[dev]'
	$(PIP) install --quiet --no-deps '$(SPANDREL)' || echo "without $(SPANDREL) the tests of its networks are skipped" >&2
	@touch $@

$(STAMPS)/native: $(STAMPS)/package setup.py $(NATIVE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@if ls sr_kernels/_C.*.so >/dev/null 2>&1; then touch $@; fi  # not built: tried, and said, again next time

# The runtimes to compare with; the benchmark names those that are absent and measures the others.
$(STAMPS)/bench: $(STAMPS)/package pyproject.toml
	$(call LISTED,["project"]["optional-dependencies"]["bench"]) | $(PIP) install --quiet --requirement /dev/stdin \
	    && touch $@ || echo "not every runtime of the extra 'bench' could be installed" >&2

clean:
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	rm -f sr_kernels/_C.*.so $(STAMPS)/native
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
