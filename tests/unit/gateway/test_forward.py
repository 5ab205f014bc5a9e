"""Paths that no service has, over real connections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from genmesh.v1 import tokenization_pb2  # noqa: F401  (the gateway's protos)
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.gateway.forward import Forwarder
from services.gateway.keys import Keys, hash_of
from services.gateway.settings import Settings
from services.gateway.status import Status
from services.runtime import server
from services.runtime.metrics import Gateway

NAME = "genmesh.v1.TokenizationService"
KEY = "gm_key"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- {{tenant: acme, sha256: {hash_of(KEY)}}}")
    urls = {
        f"{name}_url": "x" for name in ("tokenization", "embedding", "vector_search", "generation", "diffusion", "rag")
    }
    return Settings(port=1, metrics_port=1, identity_secret="x" * 16, api_keys_file=keys, **urls)  # type: ignore[arg-type]


async def ask(settings: Settings, *calls: tuple[str, bytes, Any]) -> list[Any]:
    """What a gateway before a service without methods answers to calls: path, message, metadata."""
    service, gateway = grpc.aio.server(), grpc.aio.server()
    registry = CollectorRegistry()
    counted = server.server_metrics("gateway", [NAME], registry, "unknown")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.add_insecure_port('127.0.0.1:0')}") as inner:
        keys = Keys(settings.api_keys_file)
        metrics = Gateway("gateway", registry, upstream=[NAME], tenant=keys.tenants)
        forwarder = Forwarder(settings, {NAME: inner}, keys, counted, metrics, Status(counted, {}))
        gateway.add_generic_rpc_handlers((forwarder,))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), gateway)
        port = gateway.add_insecure_port("127.0.0.1:0")
        await service.start()
        await gateway.start()
        answers: list[Any] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for path, message, metadata in calls:
                try:
                    answers.append(await channel.unary_unary(path)(message, metadata=metadata, timeout=30))
                except grpc.aio.AioRpcError as failure:
                    answers.append(failure)
        await gateway.stop(None)
        await service.stop(None)
        return answers


@pytest.mark.parametrize(
    "path",
    [
        "/genmesh.v1.Nope/Count", f"/{NAME}/NoMethod", "/nonsense", "/", "//", "/a/b/c", f"/{NAME}", f"/{NAME}/",
        "/grpc.health.v1.Health/Nope", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", f"/{NAME}/é%",
        f"/genmesh.v1.Nope/{'x' * 4000}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("message", [b"", b"x" * 100_000])
def test_a_method_that_is_none_has_a_reason_its_name_and_a_request_id(
    settings: Settings, path: str, message: bytes
) -> None:
    metadata = (("authorization", f"Bearer {KEY}"), ("x-request-id", "mine"))
    (failure,) = asyncio.run(ask(settings, (path, message, metadata)))
    trailing = dict(failure.trailing_metadata())
    (detail,) = status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (failure.code(), info.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")
    assert trailing["x-request-id"] == "mine"
    assert failure.details().startswith(f"there is no method {path.lstrip('/')[:100]}")
    assert len(failure.details()) < 400


def test_a_service_that_is_none_needs_no_key_and_one_of_ours_does(settings: Settings) -> None:
    none, ours, own = asyncio.run(
        ask(
            settings,
            ("/genmesh.v1.Nope/Count", b"", ()),
            (f"/{NAME}/NoMethod", b"", ()),
            ("/grpc.health.v1.Health/Check", b"", ()),
        )
    )
    assert none.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(dict(none.trailing_metadata())["x-request-id"]) == 32
    assert ours.code() is grpc.StatusCode.UNAUTHENTICATED
    assert health_pb2.HealthCheckResponse.FromString(own).status == health_pb2.HealthCheckResponse.SERVING
