"""A server that is told to end says so first, and still takes for a while what is on its way to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from genmesh import Client
from genmesh.errors import Unauthenticated
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.local.ports import Ports
from tests.waiting import LIMIT_SECONDS, until

UPSTREAMS = ("TOKENIZATION", "EMBEDDING", "VECTOR_SEARCH", "GENERATION", "DIFFUSION", "RAG")
LONG = 600  # seconds: longer than any test


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
    server.stop(0).wait()


@pytest.fixture
def ports() -> Ports:
    return Ports.free()


@pytest.fixture
def gateway(tmp_path: Path, ports: Ports, tokenization: tuple[grpc.Server, int]):
    """A gateway of the test's own, with so many seconds of lame duck, which serves."""
    (tmp_path / "keys.yaml").write_text("[]")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GENMESH_")}

    @contextmanager
    def start(lame_duck: int) -> Iterator[subprocess.Popen[bytes]]:
        own = {
            "PORT": ports["gateway"], "METRICS_PORT": ports["metrics_gateway"], "IDENTITY_SECRET": "s" * 32,
            "API_KEYS_FILE": tmp_path / "keys.yaml", "LAME_DUCK_SECONDS": lame_duck, "DRAIN_SECONDS": LONG,
            **{f"{name}_URL": "127.0.0.1:9" for name in UPSTREAMS},
            "TOKENIZATION_URL": f"127.0.0.1:{tokenization[1]}",
        }  # fmt: skip
        environment = inherited | {f"GENMESH_{name}": str(value) for name, value in own.items()}
        process = subprocess.Popen([sys.executable, "-m", "services.gateway"], env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    return start


@contextmanager
def watched(target: str) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Wait until the server says a state of itself, on one stream that it holds; and let that stream go."""
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service="itself")
        said = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=LONG, wait_for_ready=True)

        def until_said(state: int) -> None:
            while next(said).status != state:
                pass

        until_said(health_pb2.HealthCheckResponse.SERVING)
        yield until_said, said.cancel


def test_it_says_not_serving_and_serves_on_for_a_while(gateway, ports: Ports) -> None:
    target = f"127.0.0.1:{ports['gateway']}"
    with gateway(lame_duck=LONG) as process, watched(target) as (until_said, _):
        process.terminate()
        until_said(health_pb2.HealthCheckResponse.NOT_SERVING)
        # One that had not heard of it, on a connection of its own: it is answered, though with a refusal of its key.
        with Client(target, api_key="gm_none") as late, pytest.raises(Unauthenticated):
            late.tokenization.Count({"texts": ["x"]}, timeout=60)
        assert process.poll() is None


def test_its_metrics_are_true_while_it_drains_and_it_ends_with_its_last_call(
    gateway, ports: Ports, tokenization: tuple[grpc.Server, int]
) -> None:
    """A drain takes minutes if streams do: what it said of the services at its beginning may be long over."""

    def says(value: float) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics_gateway']}/metrics") as answer:
            line = f'genmesh_gateway_upstream_up{{upstream="genmesh.v1.TokenizationService"}} {value}'
            return line in answer.read().decode()

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", ports["gateway"])) != 0

    with gateway(lame_duck=1) as process, watched(f"127.0.0.1:{ports['gateway']}") as (until_said, let_go):
        until(lambda: says(1.0))
        begun = time.monotonic()
        process.terminate()
        until_said(health_pb2.HealthCheckResponse.NOT_SERVING)
        until(closed)
        assert time.monotonic() - begun >= 1
        tokenization[0].stop(0)
        until(lambda: says(0.0))
        assert process.poll() is None
        let_go()
        assert process.wait(LIMIT_SECONDS) == 0
