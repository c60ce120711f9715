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
# Seconds until the demo ends by itself, once its table has started.
DEMO_SECONDS ?=
# Which systems `make fresh` takes, and how much it runs there: see tests/fresh/__main__.py.
FRESH ?=
# More for pytest, such as PYTEST='-k replacement -x'.
PYTEST ?=
# IMAGE=--image has the kernel tests do the image test too, once a CPU is free.
IMAGE ?=

BINDINGS := agent/xdpscope/libbpf/_raw.abi3.so
OBJECTS := $(patsubst %.c,agent/xdpscope/bpf/%.o,$(notdir $(wildcard bpf/*/*.bpf.c)))
PYTHON_SOURCES := agent config tests setup.py docs/generate.py docs/commands.py $(wildcard dashboards)
C_SOURCES = $(shell find bpf tests -name '*.[ch]')

# Where `make install` puts the agent.
PREFIX ?= /opt/xdpscope

.PHONY: help setup setup-demo setup-test setup-docs locks build wheel install lint format test unit \
	kernel-test image-test audit matrix nightly kernel-nightly fresh bench bench-check \
	torture demo docs clean clean-all

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the build needs and is missing: packages with apt, Python's into .venv
	@tests/setup.sh

setup-demo: setup
	@tests/setup.sh --demo

setup-test: setup
	@tests/setup.sh --test

setup-docs: setup
	@tests/setup.sh --docs

# What needs more than the build does. The unit tests build the documentation's site.
lint format unit kernel-test image-test matrix kernel-nightly bench bench-check torture: setup-test
demo: setup-demo
unit kernel-nightly docs: setup-docs

fresh: setup ## these commands on bare Debian systems, nothing preinstalled; FRESH=debian-12 for one
	@tests/setup.sh debootstrap
	@$(PYTHON) -m tests.fresh $(FRESH)

locks: setup ## resolve the packages of requirements/ again, to the newest versions; UPGRADE= keeps versions
	@requirements/lock.sh

install: wheel ## install the agent and its systemd service, not started; PREFIX=/opt/xdpscope
	@config/install.sh "$(PREFIX)"

# A module that is removed from the sources would stay in build/lib, and in the wheel.
wheel: build ## build the wheel, in dist: for Python 3.11 and newer, without compilers or headers
	@rm -rf dist build/lib build/bdist.*
	@$(PYTHON) -m pip --disable-pip-version-check --quiet wheel --no-build-isolation --no-deps --no-index \
		--wheel-dir dist .
	@echo "wheel: $$(echo dist/*.whl)"

build: setup $(BINDINGS) $(OBJECTS) ## compile the libbpf bindings and the BPF programs, where they changed

$(BINDINGS): $(wildcard agent/xdpscope/libbpf/declarations/*.h) agent/xdpscope/libbpf/_rings.c agent/xdpscope/libbpf/_pcapng.c agent/xdpscope/libbpf/_build.py bpf/common/capture.h setup.py | setup
	@echo "build: the libbpf bindings"
	@$(PYTHON) setup.py --quiet build_ext --inplace
	@touch $@

$(OBJECTS) &: $(wildcard bpf/*.h bpf/*/*.[ch]) setup.py | setup
	@echo "build: the BPF programs"
	@$(PYTHON) setup.py --quiet build_bpf --inplace
	@touch $(OBJECTS)

lint: setup ## check style, types and prose: ruff, mypy, clang-format, codespell
	$(PYTHON) -m ruff check $(PYTHON_SOURCES)
	$(PYTHON) -m ruff format --check $(PYTHON_SOURCES)
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy -p tests.vm -p tests.bench -p tests.demo -p tests.fresh -p tests.prose -m tests.suites -m tests.waiting
	$(PYTHON) -m mypy -p dashboards
	clang-format --style=file:bpf/.clang-format --dry-run --Werror $(C_SOURCES)
	$(PYTHON) -m tests.prose.check

format: setup ## put sources into that style
	$(PYTHON) -m ruff check --fix-only $(PYTHON_SOURCES)
	$(PYTHON) -m ruff format $(PYTHON_SOURCES)
	clang-format --style=file:bpf/.clang-format -i $(C_SOURCES)

test: unit kernel-test ## all tests: unit tests here, kernel tests in virtual machines

# They wait a third of their time, for timeouts and browsers.
UNIT_PROCESSES = -n $$((2 * $$(nproc))) --maxprocesses 8 --dist worksteal

unit: build ## the tests that need no kernel of their own
	@echo "== unit tests"
	@$(PYTHON) -m pytest $(UNIT_PROCESSES) -m 'not nightly' tests/unit $(PYTEST) || [ $$? = 5 ] # 5: PYTEST selects none of these

SUITES = $(PYTHON) -m tests.suites
EACH_KERNEL = $(KERNELS:%=--kernel %)

kernel-test: build ## the kernel tests, in virtual machines with the KERNELS, some at a time
	@$(SUITES) $(EACH_KERNEL) $(IMAGE) -- $(PYTEST)

image-test: build ## build the container image, and run it as Kubernetes would; some minutes
	@tests/setup.sh buildah debootstrap crun
	@$(PYTHON) -m tests.kernel.programs
	@$(PYTHON) -m tests.e2e.image
	@$(PYTHON) -m pytest -q -p no:cacheprovider tests/e2e/test_image.py
	@$(PYTHON) -m tests.vm.run --kernel 6.12 --timeout 1200 -- \
		pytest -s -p no:cacheprovider -p no:hypothesispytest tests/e2e/test_container.py

# Not in .venv, nor in `make test`: it is ten times as large as all the rest, and installs for minutes.
AUDIT = $${XDG_CACHE_HOME:-$$HOME/.cache}/xdpscope/checkov
audit: setup ## check the Kubernetes manifests with checkov, 290 MB of it
	@cmp -s requirements/audit.txt $(AUDIT)/audit.txt || { $(PYTHON) -m venv --clear $(AUDIT) && \
		$(AUDIT)/bin/pip --disable-pip-version-check --quiet install --require-hashes \
			-r requirements/audit.txt && cp requirements/audit.txt $(AUDIT)/; }
	@mkdir -p build/manifests
	@$(PYTHON) -m tests.kustomize config/kubernetes/overlays/prometheus-operator >build/manifests/all.yaml
	@$(AUDIT)/bin/checkov -d build/manifests --framework kubernetes --compact --quiet --skip-download

matrix: build ## the kernel tests on every kernel supported, from 5.10 to the newest
	@$(SUITES) --matrix -- $(PYTEST)

nightly: ## the long variants: floods, thousands of rounds, torture, machines with nothing on them
	@$(MAKE) --keep-going kernel-nightly torture bench-check fresh

kernel-nightly: build
	@$(SUITES) --nightly $(EACH_KERNEL) -- $(PYTEST)

bench: build ## what observing costs: instructions a packet, trace and capture, reading flows
	@$(PYTHON) -m tests.bench
	@$(PYTHON) -m tests.bench.sessions
	@$(PYTHON) -m tests.bench.reading

# CHANGED=--changed measures only if what decides the figures has changed since they were recorded.
bench-check: build ## that on one kernel: no row may take 1 % more than recorded for this kernel build
	@$(PYTHON) -m tests.bench --kernel 6.12 --check $(CHANGED)
	@$(PYTHON) -m tests.bench.sessions --kernel 6.12 --check $(CHANGED)

torture: build ## what hosts do to XDP programs, five minutes each without, with and without the agent
	@$(PYTHON) -m tests.kernel.programs
	@$(PYTHON) -m tests.vm.run --kernel 6.1 --parallel --timeout 3000 -- python -m tests.kernel.torture

demo: build ## XDP programs, traffic, agent and Prometheus, live; DEMO_SECONDS=N ends it by itself
	@$(PYTHON) -m tests.demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

docs: build ## the documentation as a site in build/site, its generated parts renewed
	@$(PYTHON) -m docs.generate --write
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "docs: in build/site; to read them: python3 -m http.server --bind 127.0.0.1 --directory build/site 8000"

clean-all: clean ## remove the cache too: kernels, Prometheus and other downloads in ~/.cache/xdpscope
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/xdpscope"

clean: ## remove what was built; kernels and Prometheus stay in ~/.cache/xdpscope
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache agent/*.egg-info
	rm -f $(OBJECTS) $(BINDINGS) agent/xdpscope/libbpf/_raw.c
	find agent tests -name __pycache__ -prune -exec rm -rf {} +
