# SPDX-License-Identifier: Apache-2.0
# The habits of the project. `make` alone lists them; each installs first what it needs.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON := .venv/bin/python

# The kernels of `make kernel-test` and `make test`: names that tests/vm/README.md explains. Other
# distributions than Debian have but one kernel in reach of their own sources.
KERNELS ?= $(if $(shell grep -x 'ID=debian' /etc/os-release 2>/dev/null),6.1 6.12,default)
# Seconds that one kernel may take for its whole suite, and the demo after its table has started.
KERNEL_TIMEOUT ?= 4200
DEMO_SECONDS ?=
# More for pytest, such as PYTEST='-k replacement -x'.
PYTEST ?=

BINDINGS := agent/xdpscope/libbpf/_raw.abi3.so
OBJECTS := $(patsubst bpf/%.c,agent/xdpscope/bpf/%.o,$(wildcard bpf/*.bpf.c))
PYTHON_SOURCES := agent config tests setup.py docs/generate.py $(wildcard dashboards)
C_SOURCES = $(shell find bpf tests -name '*.[ch]')

.PHONY: help setup build lint format test unit kernel-test image-test audit matrix bench torture demo \
	docs clean suite-at-once

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages with apt, Python's into .venv
	@tests/setup.sh

build: setup $(BINDINGS) $(OBJECTS) ## compile the libbpf bindings and the BPF programs, where they changed

$(BINDINGS): agent/xdpscope/libbpf/_libbpf.h agent/xdpscope/libbpf/_build.py setup.py | setup
	@echo "build: the libbpf bindings"
	@$(PYTHON) setup.py --quiet build_ext --inplace
	@touch $@

$(OBJECTS) &: $(wildcard bpf/*.c bpf/*.h) setup.py | setup
	@echo "build: the BPF programs"
	@$(PYTHON) setup.py --quiet build_bpf --inplace
	@touch $(OBJECTS)

lint: setup ## check style and types: ruff, mypy, clang-format
	$(PYTHON) -m ruff check $(PYTHON_SOURCES)
	$(PYTHON) -m ruff format --check $(PYTHON_SOURCES)
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy -p tests.vm -p tests.demo -p dashboards
	clang-format --style=file:bpf/.clang-format --dry-run --Werror $(C_SOURCES)

format: setup ## put sources into that style
	$(PYTHON) -m ruff check --fix-only $(PYTHON_SOURCES)
	$(PYTHON) -m ruff format $(PYTHON_SOURCES)
	clang-format --style=file:bpf/.clang-format -i $(C_SOURCES)

test: build ## all tests: units here, the kernel suite in a virtual machine for each of KERNELS
	@failed=; for part in unit kernel-test; do \
		$(MAKE) $$part || failed="$$failed $$part"; \
	done; \
	if [ -n "$$failed" ]; then echo "test: FAILED in:$$failed" >&2; exit 1; fi; \
	echo "test: all passed"

unit: build ## the tests that need no kernel of their own
	@echo "== unit tests"
	@$(PYTHON) -m pytest tests/unit $(PYTEST)

kernel-test: build ## the kernel suite, in a virtual machine for each of KERNELS
	@echo "== the virtual machines themselves"
	@$(PYTHON) -m pytest -p no:cacheprovider tests/vm
	@$(call suites,$(addprefix suite-on-,$(KERNELS)) $(if $(filter 6.1,$(KERNELS)),suite-at-once))

image-test: build ## build the container image, and run it as Kubernetes would; some minutes
	@tests/setup.sh buildah debootstrap crun
	@$(PYTHON) -m tests.kernel.programs
	@$(PYTHON) -m tests.e2e.image
	@$(PYTHON) -m tests.vm.run --kernel 6.12 --timeout 1200 -- pytest -s -p no:cacheprovider tests/e2e

# Not in .venv, nor in `make test`: it is ten times as large as all the rest, and installs for minutes.
AUDIT = $${XDG_CACHE_HOME:-$$HOME/.cache}/xdpscope/checkov
audit: setup ## check the Kubernetes manifests with checkov, 290 MB of it
	@[ -x $(AUDIT)/bin/checkov ] || { $(PYTHON) -m venv $(AUDIT) && \
		$(AUDIT)/bin/pip --disable-pip-version-check --quiet install checkov==3.3.30; }
	@mkdir -p build/manifests
	@$(PYTHON) -m tests.kustomize config/kubernetes/overlays/prometheus-operator >build/manifests/all.yaml
	@$(AUDIT)/bin/checkov -d build/manifests --framework kubernetes --compact --quiet --skip-download

matrix: build ## the kernel suite on every kernel supported, from 5.10 to the newest
	@$(call suites,$(addprefix suite-on-,5.10 6.1 6.12 newest))

bench: build ## what observing costs: instructions a packet, reading flows
	@$(PYTHON) -m tests.bench
	@$(PYTHON) -m tests.bench.reading

torture: build ## what hosts do to XDP programs, five minutes each without, with and without the agent
	@$(PYTHON) -m tests.kernel.programs
	@$(PYTHON) -m tests.vm.run --kernel 6.1 --parallel --timeout 3000 -- python -m tests.kernel.torture

demo: build ## XDP programs, traffic, agent and Prometheus, live; DEMO_SECONDS=N ends it by itself
	@$(PYTHON) -m tests.demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

docs: build ## the documentation as a site in build/site, its generated parts renewed
	@$(PYTHON) docs/generate.py --write
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"

clean: ## remove what was built; kernels and Prometheus stay in ~/.cache/xdpscope
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache agent/*.egg-info
	rm -f $(OBJECTS) $(BINDINGS) agent/xdpscope/libbpf/_raw.c
	find agent tests -name __pycache__ -prune -exec rm -rf {} +

# Two machines at a time, each of which keeps one CPU of ours busy; what one says comes in one piece.
# The programs are compiled here: an emulated machine takes seconds for what takes a moment.
define suites
	echo "== kernel suite in emulated machines, two at a time: $(1:suite-%=%) (many minutes)"; \
	$(PYTHON) -m tests.kernel.programs && $(MAKE) -k -j2 --output-sync=target $(1)
endef

suite-on-%:
	@echo "== kernel suite on $*"; \
	$(PYTHON) -m tests.vm.run --kernel $* --timeout $(KERNEL_TIMEOUT) \
		-- python -m pytest -p no:cacheprovider tests/kernel $(PYTEST)

# The emulator runs CPUs in turn, in long slices; truly at once is safe on kernels up to 6.1 only.
suite-at-once:
	@echo "== exactness on 6.1, with four CPUs that run at once"; \
	$(PYTHON) -m tests.vm.run --kernel 6.1 --parallel --cpus 4 --timeout $(KERNEL_TIMEOUT) \
		-- python -m pytest -p no:cacheprovider tests/kernel/test_verdicts.py tests/kernel/test_fallback.py
