"""A server that is told to end says so first, and still takes for a while what is on its way to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from genmesh import Client
from genmesh.errors import Unauthenticated
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.local.ports import Ports

UPSTREAMS = ("TOKENIZATION", "EMBEDDING", "VECTOR_SEARCH", "GENERATION", "DIFFUSION", "RAG")
LAME_DUCK = 3


@pytest.fixture
def tokenization() -> Iterator[tuple[grpc.Server, int]]:
    """What a gateway asks of a tokenization service that is well: its health; and its port."""
    server, said = grpc.server(ThreadPoolExecutor(4)), health.HealthServicer()
    for name in ("genmesh.v1.TokenizationService", "itself"):
        said.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(said, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield server, port
    server.stop(0)


@pytest.fixture
def ports() -> Ports:
    return Ports.free()


@pytest.fixture
def gateway(
    tmp_path: Path, ports: Ports, tokenization: tuple[grpc.Server, int]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (tmp_path / "keys.yaml").write_text("[]")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GENMESH_")}
    own = {
        "PORT": ports["gateway"], "METRICS_PORT": ports["metrics_gateway"], "IDENTITY_SECRET": "s" * 32,
        "API_KEYS_FILE": tmp_path / "keys.yaml", "LAME_DUCK_SECONDS": LAME_DUCK, "DRAIN_SECONDS": 5,
        **{f"{name}_URL": "127.0.0.1:9" for name in UPSTREAMS},
        "TOKENIZATION_URL": f"127.0.0.1:{tokenization[1]}",
    }  # fmt: skip
    environment = inherited | {f"GENMESH_{name}": str(value) for name, value in own.items()}
    process = subprocess.Popen([sys.executable, "-m", "services.gateway"], env=environment)
    yield process, f"127.0.0.1:{ports['gateway']}"
    process.kill()
    process.wait()


def test_it_says_not_serving_and_serves_on_for_a_while(gateway: tuple[subprocess.Popen[bytes], str]) -> None:
    process, target = gateway
    request = health_pb2.HealthCheckRequest(service="itself")
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(30)
        said = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=60)
        while next(said).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        begun = time.monotonic()
        process.terminate()
        assert next(said).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert time.monotonic() - begun < 1
        # One that had not heard of it, on a connection of its own: it is answered, though with a refusal of its key.
        with Client(target, api_key="gm_none") as late, pytest.raises(Unauthenticated):
            late.tokenization.Count({"texts": ["x"]}, timeout=2)
        assert process.poll() is None
    assert process.wait(LAME_DUCK + 10) == 0
    assert time.monotonic() - begun > LAME_DUCK


def test_its_metrics_are_true_while_it_drains(
    gateway: tuple[subprocess.Popen[bytes], str], ports: Ports, tokenization: tuple[grpc.Server, int]
) -> None:
    """A drain takes minutes where streams do: what it said of the services at its beginning may be long over."""
    process, target = gateway

    def wait_for(line: str) -> None:
        limit = time.monotonic() + 30
        while (
            line not in urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics_gateway']}/metrics").read().decode()
        ):
            assert time.monotonic() < limit
            time.sleep(0.1)

    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(30)
        held = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="itself"), timeout=60)
        next(held)
        wait_for('genmesh_gateway_upstream_up{upstream="genmesh.v1.TokenizationService"} 1.0')
        process.terminate()
        while next(held).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        tokenization[0].stop(0)
        wait_for('genmesh_gateway_upstream_up{upstream="genmesh.v1.TokenizationService"} 0.0')
        assert process.poll() is None
    assert process.wait(LAME_DUCK + 10) == 0
