# Every target makes the environment it needs, in .venv, and is quick when that is up to date.
#
#   make sample   a picture from the model that ships with the package: samples.png
#   make test     the tests, but for the slow ones, and those of the C++ kernels
#   make test-nan the tests of Python again, with fresh memory full of NaN
#   make test-oldest   the tests of Python under the oldest torch, in a copy of the checkout; several GB
#   make wheels   a wheel for each Python that is tested, installed and used outside of the checkout
#   make first-contact   such a wheel with the ops for GPUs, under the oldest torch, on GPUs that are not there:
#                 needs nvcc, no GPU, and several GB
#   make lint     what the code must look like;  make format  mends what can be mended
#   make docs     the documentation site, in build/site
#   make bench    naive against optimised sampling on this machine
#   make clean    removes everything that was built, .venv included

# Python 3.10 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUILD := build/cmake
DEVELOPMENT := dev,vae,eval,docs
TORCH ?= 2.13.0
OLDEST := 2.11.0
SOURCES := $(shell find csrc -type f ! -name '*.md') setup.py pyproject.toml
CPP := $(filter %.h %.inl %.cpp %.cu %.cuh,$(SOURCES))

# torch first, and one very version: the build of flowar uses the torch that it finds, and never brings one.
define install
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check torch==$(TORCH)
	$(BIN)/pip install --disable-pip-version-check --editable ".$(1)"
endef

PYTHONS := 3.10 3.12 3.13
# Of a version: by its name, or where pyenv has it.
python = $(firstword $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python) $(shell command -v python$(1)))

.PHONY: sample test test-nan test-oldest first-contact wheels lint format docs bench clean

sample: $(VENV)/package.stamp
	$(BIN)/flowar sample --output samples.png

test: $(VENV)/development.stamp
	$(BIN)/cmake -S . -B $(BUILD)
	$(BIN)/cmake --build $(BUILD) --parallel 2
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure
	$(BIN)/pytest -n auto -m "not slow"

# Python asserts first that the library works: the loader passes over what it cannot load.
NAN_MEMORY := LD_PRELOAD=$(CURDIR)/$(BUILD)/libnan_memory.so

test-nan: $(VENV)/development.stamp
	$(BIN)/cmake -S . -B $(BUILD)
	$(BIN)/cmake --build $(BUILD) --target nan_memory
	$(NAN_MEMORY) $(BIN)/python -c "import torch; assert torch.empty(99).isnan().all()"
	$(NAN_MEMORY) $(BIN)/pytest -n auto -m "not slow"

# A copy, since the libraries of a checkout are built for one torch. Those for GPUs are what first-contact is about.
test-oldest:
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && git ls-files -z | xargs -0 cp --parents -t "$$copy" && \
	FLOWAR_BUILD_CUDA=0 $(MAKE) -C "$$copy" TORCH=$(OLDEST) VENV=.venv .venv/development.stamp && \
	cd "$$copy" && .venv/bin/pytest -n auto -m "not slow"

first-contact:
	FLOWAR_BUILD_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0 .ci/wheel $(or $(call python,3.12),$(PYTHON)) $(OLDEST) \
		tests/registered.py tests/fake_gpu_run.py

wheels: $(PYTHONS:%=wheel-%)

wheel-%:
	.ci/wheel $(or $(call python,$*),$(error no Python $* on this machine)) $(TORCH)

lint: $(VENV)/development.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/development.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: $(VENV)/development.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/package.stamp
	$(BIN)/python benchmarks/sample_speed.py

clean:
	rm -rf build .venv *.egg-info flowar/*.so .*_cache .hypothesis

$(VENV)/package.stamp: $(SOURCES)
	$(call install)
	touch $@

$(VENV)/development.stamp: $(SOURCES)
	$(call install,[$(DEVELOPMENT)])
	touch $@ $(VENV)/package.stamp
