"""`helm test` right after an installation: the gateway is ready, the services behind it not yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services import selftest

NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def gateway() -> Iterator[tuple[grpc.Channel, health.HealthServicer]]:
    """A gateway's health, and a channel to it."""
    with ThreadPoolExecutor(2) as pool:
        server, servicer = grpc.server(pool), health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        for service in selftest.USED[1:]:
            servicer.set(service, SERVING)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, servicer
        server.stop(None).wait()


def test_it_waits_until_all_serve(gateway: tuple[grpc.Channel, health.HealthServicer]) -> None:
    channel, servicer = gateway
    waiting = threading.Thread(target=selftest.wait_until_served, args=(channel,))
    waiting.start()
    for status in (NOT_SERVING, SERVING):
        assert waiting.is_alive()
        servicer.set(selftest.USED[0], status)
    waiting.join(60)
    assert not waiting.is_alive()


def test_it_does_not_wait_for_ever(
    gateway: tuple[grpc.Channel, health.HealthServicer], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, servicer = gateway
    servicer.set(selftest.USED[0], NOT_SERVING)
    monkeypatch.setattr(selftest, "WAIT_SECONDS", 0.0)
    with pytest.raises(SystemExit, match=r"RagService does not serve after 0 s: NOT_SERVING\."):
        selftest.wait_until_served(channel)
