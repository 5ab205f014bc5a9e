#!/usr/bin/env bash
# Run a command as a client of the cluster that `make cluster-up` started. Usage: in-cluster.sh COMMAND...
cd "$(dirname "$0")/.."
PYTHONPATH=. exec .state/venv/dev/bin/python -m deploy.cluster run "$@"
