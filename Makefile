# Everything that a developer or CI runs. All that is installed, built or written lies in .state.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT_OFFSET ?= 0
STATE := .state
BIN := $(STATE)/venv/dev/bin
GENMESH_MODELS := $(STATE)/venv/triton/bin/genmesh-models
LOCAL := $(BIN)/python -m deploy.local
STUBS := clients/python/src/genmesh/v1/__init__.py
PYTEST := PYTHONPATH=. $(BIN)/python -m pytest

.PHONY: help setup setup-browser proto models models-report up down status logs test test-unit test-contract test-integration test-e2e test-recipes check fmt lock bench observability load capacity chart-tools cluster-tools cluster-images cluster-up cluster-down test-cluster images test-chart clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: ## Install packages and environments
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Genmesh needs Python 3.11; set PYTHON=/path/to/python3.11")'
	@scripts/packages.sh $(PYTHON)
	@scripts/environment.sh $(PYTHON) $(STATE) dev requirements/dev.txt clients/python
	@scripts/environment.sh $(PYTHON) $(STATE) triton requirements/triton.txt model_repository

$(STUBS): $(wildcard protos/genmesh/v1/*.proto) protos/service_config.json scripts/proto.sh
	@scripts/proto.sh $(BIN)

proto: setup $(STUBS) ## Generate the stubs

models: setup ## Build Triton's models from model_repository/models.yaml; a cluster that runs takes them over
	@$(GENMESH_MODELS) build --into $(STATE)/models $$($(LOCAL) triton)

models-report: setup ## Build every model in every precision and write the table in docs/models.md
	@$(GENMESH_MODELS) report --into $(STATE)/models

up: proto models ## Start the cluster, ingest samples, answer a question, draw an image
	@$(LOCAL) up --port-offset $(PORT_OFFSET)

down: ## Stop what `make up` started
	@if [ -x $(BIN)/python ]; then $(LOCAL) down; else echo "Nothing is installed, so nothing runs."; fi

status: ## Tell how each part is
	@$(LOCAL) status

logs: ## Show the last lines of each log; NAME=rag LINES=100 for one
	@$(LOCAL) logs $(NAME) --lines $(or $(LINES),10)

test: test-unit test-contract test-chart test-integration test-e2e test-recipes ## Run all tests (they start what they need on free ports)

test-unit: proto ## Fast tests without servers
	@$(PYTEST) tests/unit

test-contract: proto models ## Protos, models and configuration agree
	@$(PYTEST) tests/contract

setup-browser: setup ## Install the browser that tests look at the status page with
	@scripts/packages.sh $(PYTHON) chromium

test-integration: proto models setup-browser ## Each service against real Triton, Redis and Milvus
	@$(PYTEST) tests/integration

test-e2e: proto models ## The whole cluster as a user meets it; two files at a time, for builds of models leave a core idle
	@$(PYTEST) tests/e2e -n 2 --dist loadfile

test-recipes: proto models ## Each starter's recipe learns, each on one core; what the built starters can do
	@$(PYTEST) tests/recipes -n 2

check: proto ## Formatter, linters (of Dockerfiles too), types
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
	@scripts/images.sh services triton-cpu milvus-lite

chart-tools: setup ## Build helm and kubeconform, once
	@scripts/go-tools.sh $(STATE) chart

cluster-tools: chart-tools ## Build Kubernetes and what a cluster needs beside it, once
	@scripts/packages.sh $(PYTHON) buildah debootstrap etcd:etcd-server containerd runc /usr/lib/cni/ptp:containernetworking-plugins iptables ip:iproute2
	@scripts/go-tools.sh $(STATE) kubernetes coredns metrics-server network-policies kwok

cluster-images: images
	@scripts/images.sh redis prometheus pause

cluster-up: cluster-tools cluster-images ## Start a Kubernetes of three nodes on this machine and install the chart
	@PYTHONPATH=. $(BIN)/python -m deploy.cluster up

test-cluster: cluster-tools cluster-images ## Balancing, upgrades, faults, security on that Kubernetes, under load: [TESTS=tests/cluster/test_1_install.py]
	@$(PYTEST) $(or $(TESTS),tests/cluster)

cluster-down: setup ## Take it away
	@PYTHONPATH=. $(BIN)/python -m deploy.cluster down

test-chart: proto chart-tools ## The Helm chart against the schemas of Kubernetes
	@$(PYTEST) tests/chart

bench: proto models ## Measure hops, embedding, cancellation, memory, and Genmesh against its peers
	@scripts/packages.sh $(PYTHON) nginx cmake g++
	@PYTHONPATH=. $(BIN)/python -m loadtest.bench
	@PYTHONPATH=. $(BIN)/python -m loadtest.peers
	@PYTHONPATH=. $(BIN)/python -m loadtest.peers generation --generator 110m

observability: setup ## Write docs/metrics.md, docs/alerts.md, the dashboards and the rules from their declarations
	@PYTHONPATH=. $(BIN)/python -m deploy.observability

lock: setup ## Resolve requirements/*.in anew
	@for name in services dev triton triton-runtime milvus-lite peers; do \
	  $(STATE)/venv/tools/bin/uv pip compile -q --generate-hashes --python-version 3.11 --no-header requirements/$$name.in -o requirements/$$name.txt; \
	done

clean: down ## Stop the cluster and delete all that it wrote
	@rm -rf $(STATE)
