# Everything runs from the project's own .venv, which the first target that needs it sets up.
# PYTHON=python3.12 make test   takes another Python;   make test ARGS="-k dropout"   passes arguments on.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
CROSS := -std=c++20 -O2 -Wall -Wextra -Werror -fno-math-errno -fno-trapping-math -ffp-contract=off -Icsrc
SANITIZED = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 ELMAN_SANITIZED="$$(echo build/sanitize/_native*.so)" PYTHONPATH=tests
CONFIGURE = $(BIN)/cmake -S . -G Ninja -DELMAN_TEST_TARGETS=ON -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
    -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)"
SOURCES := $(shell find csrc src tests -name '*.cpp' -o -name '*.h' -o -name '*.cuh')
KERNELS := CMakeLists.txt $(filter csrc/%,$(SOURCES))

.DEFAULT_GOAL := help
.PHONY: help demo check test lint bench docs docs-check wheels sanitize debug clients compilers versions neon clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/installed-plot ## install, inspect three networks, then train one on real text
	$(BIN)/elman tour
	$(BIN)/elman train text

# All tests but those marked `slow`, and which of these took longest.
check: lint ## run lint and the quick tests: two to four minutes
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not slow" --durations 5 --durations-min 3 $(ARGS)

test: .venv/installed-dev ## run the tests, on up to four processors
	$(BIN)/pytest --numprocesses auto --dist worksteal $(ARGS)

lint: .venv/installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)
	$(BIN)/mypy

bench: .venv/installed-peers ## compare the speed with torch.nn, JAX and ONNX Runtime
	$(BIN)/elman bench $(ARGS)

docs: .venv/installed-dev ## build the documentation site, build/site/index.html
	$(BIN)/mkdocs build --strict --quiet

# Needs Node.js and Chromium; installs axe and puppeteer into build/node.
docs-check: docs ## check every page of the site with axe, on a desktop and a phone, light and dark
	npm install --silent --no-save --prefix build/node axe-core@4 puppeteer-core@24
	NODE_PATH=build/node/node_modules node docs/site/check.cjs build/site $(ARGS)

# The sanitized kernels take the installed ones' place for one run of the tests that throw arbitrary arguments at the binding, without torch, and for one of
# those that misuse the modules, the programs and a GPU's commands, with it. ELMAN_FUZZ=250 makes a million calls of these.
# The runtime libraries must be in the process before Python is; libstdc++ with them, so that thrown exceptions are seen. GCC on Linux.
sanitize: .venv/installed-dev ## test the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	$(CONFIGURE) -B build/sanitize -DELMAN_SANITIZE=ON -DELMAN_WERROR=ON -DCMAKE_CXX_COMPILER=g++
	$(BIN)/cmake --build build/sanitize
	$(SANITIZED) $(BIN)/pytest -s --noconftest -p sanitized --timeout 1200 tests/test_fuzz.py tests/test_stream_memory.py $(ARGS)
	$(SANITIZED) ELMAN_SANITIZED_TORCH=1 $(BIN)/pytest -s --noconftest -p sanitized --timeout 1200 tests/test_fuzz_modules.py tests/test_fuzz_programs.py tests/test_raw_step.py tests/test_cuda_commands.py $(ARGS)

debug: .venv/installed-dev ## build the kernels with symbols and without optimization, in build/debug
	$(CONFIGURE) -B build/debug -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/debug

# make clients ARGS="geometric"   takes this one alone.
clients: .venv/installed-dev ## run programs of PyPI packages with Elman's modules in place of torch.nn's
	$(BIN)/python tests/clients/run.py $(ARGS)

# make compilers ARGS="g++-12 clang++-19"   takes these alone.
compilers: .venv/installed-dev ## test the bitwise guarantees with every installed GCC and Clang
	$(BIN)/python tests/compilers.py $(ARGS)

# make versions ARGS="--session pythons-3.12"   goes to nox; pytest's arguments come behind --.
versions: .venv/installed-dev ## run the quick tests under other versions of torch and Python
	$(BIN)/nox $(ARGS)

# An emulator (apt-get install g++-aarch64-linux-gnu qemu-user-static) runs the kernels of another processor against plain loops.
neon: ## test the kernels for 64-bit Arm under an emulator
	mkdir -p build/neon
	for target in scalar neon; do \
	    for unit in target bfloat16 program/target; do \
	        aarch64-linux-gnu-g++ $(CROSS) -DELMAN_TARGET=$$target -c csrc/$$unit.cpp -o build/neon/$$target-$$(basename $$(dirname $$unit))-$$(basename $$unit).o || exit; done; done
	aarch64-linux-gnu-g++ $(CROSS) "-DELMAN_TARGETS=ELMAN_EACH(neon) ELMAN_EACH(scalar)" -static -pthread csrc/dispatch.cpp csrc/processors.cpp csrc/ragged.cpp csrc/threads.cpp csrc/tuner.cpp tests/smoke.cpp build/neon/*.o -o build/neon/smoke
	qemu-aarch64-static build/neon/smoke

# make wheels ARGS="python3.11 /opt/python3.12/bin/python"   builds for these.
wheels: ## build wheels for this machine into dist/ and test each without a compiler
	.ci/wheels $(ARGS)

clean: ## remove build output, but not .venv
	rm -rf build dist .nox .venv/installed-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# --- Set-up -----------------------------------------------------------------------------------------------------------

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Python is used where it lies; a change of the kernels or of what is depended on installs again, which compiles what changed.
# Without build isolation, so that the build directory outlives the build. One directory for developers, whose warnings are errors and who
# get kernels for tests as well, and one for everybody else; what is installed after developers' kernels keeps them.
# For the same reason setuptools is fetched first: of the packages that come as source, those without build
# requirements of their own are built by what .venv has, and the setuptools of an older Python makes no wheels by itself.
.venv/installed-%: BUILD = $(if $(filter dev,$*)$(wildcard .venv/installed-dev),dev,user)
.venv/installed-%: pyproject.toml constraints.txt src/elman/_version.py $(KERNELS) | $(BIN)/python
	@echo "Installing Elman with its '$*' extra into .venv: fetches PyTorch, compiles the kernels; takes some minutes the first time"
	@$(PIP) scikit-build-core nanobind cmake ninja setuptools
	@$(PIP) --no-build-isolation --editable '.[$*]' \
	    --config-settings build-dir=build/$(BUILD) \
	    --config-settings cmake.define.ELMAN_WERROR=$(if $(filter dev,$(BUILD)),ON,OFF) \
	    --config-settings cmake.define.ELMAN_TEST_TARGETS=$(if $(filter dev,$(BUILD)),ON,OFF)
	@touch $@
