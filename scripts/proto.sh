#!/usr/bin/env bash
# Generate the Python stubs and their type stubs from protos/ into the client package (the only copy).
set -euo pipefail
exec "${1:?the environment with grpcio-tools}/python" "$(dirname "$0")/../clients/python/stubs.py"
