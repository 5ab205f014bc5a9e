# Everything that a developer or CI runs. All that is installed, built or written lies in .state.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT_OFFSET ?= 0
STATE := .state
BIN := $(STATE)/venv/dev/bin
GENMESH_MODELS := $(STATE)/venv/triton/bin/genmesh-models
LOCAL := $(BIN)/python -m deploy.local
STUBS := clients/python/src/genmesh/v1/__init__.py
PYTEST := env PYTHONPATH=. $(BIN)/python -m pytest
STAGE := scripts/stage.sh
GATE := -m 'not nightly'

.PHONY: help setup environments setup-browser proto models models-report up down status logs test test-unit test-contract test-chart test-system test-integration test-e2e test-smoke test-recipes test-cluster test-nightly check checks fmt lock bench bench-retrieval observability load capacity chart-tools smoke-tools cluster-tools images cluster-images cluster-up cluster-down clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: ## Install packages and environments
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Genmesh needs Python 3.11; set PYTHON=/path/to/python3.11")'
	@$(STAGE) setup $(MAKE) --no-print-directory environments

environments:
	@scripts/packages.sh $(PYTHON)
	@scripts/environment.sh $(PYTHON) $(STATE) dev requirements/dev.txt clients/python
	@scripts/environment.sh $(PYTHON) $(STATE) triton requirements/triton.txt model_repository

$(STUBS): $(wildcard protos/genmesh/v1/*.proto) protos/service_config.json scripts/proto.sh
	@scripts/proto.sh $(BIN)

proto: setup $(STUBS) ## Generate the stubs

models: setup ## Build Triton's models from model_repository/models.yaml; a cluster that runs takes them over
	@$(STAGE) models $(GENMESH_MODELS) build --into $(STATE)/models $$($(LOCAL) triton)

models-report: setup ## Build every model in every precision and write the tables in docs/models.md
	@$(GENMESH_MODELS) report --into $(STATE)/models
	@! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo || $(GENMESH_MODELS) report-bfloat16 --into $(STATE)/models

up: proto models ## Start the cluster, ingest samples, answer a question, draw an image
	@$(LOCAL) up --port-offset $(PORT_OFFSET)

down: ## Stop what `make up` started
	@if [ -x $(BIN)/python ]; then $(LOCAL) down; else echo "Nothing is installed, so nothing runs."; fi

status: ## Tell how each part is
	@$(LOCAL) status

logs: ## Show the last lines of each log; NAME=rag LINES=100 for one
	@$(LOCAL) logs $(NAME) --lines $(or $(LINES),10)

test: test-unit test-contract test-chart test-system ## Run the tests (they start what they need on free ports)

test-unit: proto ## Fast tests without servers
	@$(STAGE) unit $(PYTEST) tests/unit $(GATE) -n 2

test-contract: proto models ## Protos, models and configuration agree
	@$(STAGE) contract $(PYTEST) tests/contract $(GATE)

test-chart: proto chart-tools ## The Helm chart against the schemas of Kubernetes
	@$(STAGE) chart $(PYTEST) tests/chart $(GATE)

setup-browser: setup ## Install the browser that tests look at the status page with
	@$(STAGE) browser scripts/packages.sh $(PYTHON) chromium

test-system: proto models setup-browser ## Integration and end-to-end tests, on one cluster
	@$(STAGE) system $(PYTEST) tests/integration tests/e2e $(GATE)

test-integration: proto models setup-browser ## Each service against real Triton, Redis and Milvus
	@$(PYTEST) tests/integration $(GATE)

test-e2e: proto models ## The whole cluster as a user meets it
	@$(PYTEST) tests/e2e $(GATE)

test-smoke: proto smoke-tools cluster-images ## The chart on a small Kubernetes on this machine: install, helm test, restarts under load
	@$(STAGE) smoke env PYTHONPATH=. $(BIN)/python -m tests.smoke

test-recipes: proto models ## Each starter's recipe learns, each on one core
	@$(PYTEST) tests/recipes -n 2

test-cluster: proto cluster-tools cluster-images ## Balancing, upgrades, faults, security on a Kubernetes of three nodes, under load: [TESTS=tests/cluster/test_1_install.py]
	@$(PYTEST) $(or $(TESTS),tests/cluster)

test-nightly: proto models cluster-tools cluster-images setup-browser ## All other tests, for hours; their figures go to docs/nightly.md
	@status=0; \
	for tests in "tests/unit tests/contract tests/chart tests/integration tests/e2e -m nightly" tests/e2e/test_lost_engines.py tests/recipes tests/cluster; do \
	  GENMESH_FIGURES=docs/nightly.md $(PYTEST) $$tests || status=1; \
	done; exit $$status

check: proto ## Formatter, linters (of Dockerfiles too), types
	@$(STAGE) check $(MAKE) --no-print-directory checks

checks:
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/buf lint protos
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/hadolint --no-color deploy/images/*.Dockerfile

fmt: proto ## Format and fix
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/buf format -w protos

load: proto ## Run a load: SCENARIO=chat [RATE=4 DURATION=30 WORKERS=2 WEB=8089]; non-zero where an SLO breaks
	@PYTHONPATH=. $(BIN)/python -m loadtest.load $(SCENARIO) $(if $(RATE),--rate $(RATE)) $(if $(DURATION),--duration $(DURATION)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(WEB),--web $(WEB))

capacity: proto ## Find the highest rate that keeps the SLO: SCENARIO=chat
	@PYTHONPATH=. $(BIN)/python -m loadtest.capacity $(SCENARIO) $(if $(WORKERS),--workers $(WORKERS))

images: proto models ## Build the images of the services, Triton on a CPU and Milvus Lite with buildah
	@scripts/packages.sh $(PYTHON) buildah debootstrap
	@$(STAGE) images scripts/images.sh services triton-cpu milvus-lite

chart-tools: setup ## Build helm and kubeconform, once
	@$(STAGE) chart-tools scripts/go-tools.sh $(STATE) chart

smoke-tools: chart-tools ## Build Kubernetes, once, and install what runs it
	@scripts/packages.sh $(PYTHON) buildah debootstrap etcd:etcd-server containerd runc /usr/lib/cni/ptp:containernetworking-plugins iptables ip:iproute2
	@$(STAGE) smoke-tools scripts/go-tools.sh $(STATE) kubernetes coredns network-policies

cluster-tools: smoke-tools ## Build what the cluster of three nodes needs beside that, once
	@scripts/go-tools.sh $(STATE) metrics-server kwok

cluster-images: images
	@$(STAGE) small-images scripts/images.sh redis prometheus pause

cluster-up: cluster-tools cluster-images ## Start a Kubernetes of three nodes on this machine and install the chart
	@PYTHONPATH=. $(BIN)/python -m deploy.cluster up

cluster-down: setup ## Take it away
	@PYTHONPATH=. $(BIN)/python -m deploy.cluster down

bench: proto models ## Measure hops, embedding, cancellation, memory, and Genmesh against its peers
	@scripts/packages.sh $(PYTHON) nginx cmake g++
	@PYTHONPATH=. $(BIN)/python -m loadtest.bench
	@PYTHONPATH=. $(BIN)/python -m loadtest.fairness
	@PYTHONPATH=. $(BIN)/python -m loadtest.peers
	@PYTHONPATH=. $(BIN)/python -m loadtest.peers generation --generator 110m

bench-retrieval: proto ## What each search finds, on the cluster of `make up`: CRANFIELD=cranfield.jsonl SQUAD="xquad-en.json xquad-de.json"; to docs/retrieval.md
	@PYTHONPATH=. $(BIN)/python -m loadtest.retrieval --key "$$(cat $(STATE)/run/development-key)" \
	  $(if $(CRANFIELD),--cranfield $(CRANFIELD)) --squad $(SQUAD) --write docs/retrieval.md

observability: setup ## Write docs/metrics.md, docs/alerts.md, the dashboards and the rules from their declarations
	@PYTHONPATH=. $(BIN)/python -m deploy.observability

lock: setup ## Resolve requirements/*.in anew
	@for name in services dev triton triton-runtime milvus-lite peers; do \
	  $(STATE)/venv/tools/bin/uv pip compile -q --generate-hashes --python-version 3.11 --no-header --override requirements/overrides.txt requirements/$$name.in -o requirements/$$name.txt; \
	done

clean: down ## Stop the cluster and delete all that it wrote
	@rm -rf $(STATE)
