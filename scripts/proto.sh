#!/usr/bin/env bash
# Generate the Python stubs and their type stubs from protos/ into the client package (the only copy).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:?the environment with grpcio-tools}
out=clients/python/src
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -Iprotos \
  --python_out=$out --grpc_python_out=$out --mypy_out=quiet:$out --mypy_grpc_out=quiet:$out \
  protos/genmesh/v1/*.proto
echo '"""Stubs of the package genmesh.v1, made by `make proto`."""' >$out/genmesh/v1/__init__.py
cp protos/service_config.json $out/genmesh/service_config.json
