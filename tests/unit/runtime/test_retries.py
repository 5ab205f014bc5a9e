"""Retries of two hops, each with the policy of protos/service_config.json, do not multiply."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from genmesh.v1 import embedding_pb2, rag_pb2
from genmesh.v1.embedding_pb2_grpc import (
    EmbeddingServiceServicer,
    EmbeddingServiceStub,
    add_EmbeddingServiceServicer_to_server,
)
from genmesh.v1.rag_pb2_grpc import RagServiceServicer, RagServiceStub, add_RagServiceServicer_to_server

from services.runtime import channels
from services.runtime.errors import GenmeshError, Unavailable, calling, trailing

ATTEMPTS = 4  # of the policy


class Inner(EmbeddingServiceServicer):
    """Never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def Embed(self, request: Any, context: Any) -> Any:
        self.asked += 1
        error = Unavailable("away", reason="MODEL_UNAVAILABLE")
        await context.abort(error.code, error.message, trailing(error))


class Outer(RagServiceServicer):
    """Asks the inner service."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.asked = inner, 0

    async def Retrieve(self, request: Any, context: Any) -> Any:
        self.asked += 1
        try:
            with calling("embedding", "Embed"):
                await self.inner.Embed(embedding_pb2.EmbedRequest(inputs=["x"]))
        except GenmeshError as error:
            await context.abort(error.code, error.message, trailing(error))


async def test_what_a_hop_has_tried_again_its_caller_does_not() -> None:
    servers, ports = [grpc.aio.server(), grpc.aio.server()], []
    for server in servers:
        ports.append(server.add_insecure_port("127.0.0.1:0"))
    # Without the health check that a replica's channel makes first.
    options = [("grpc.service_config", channels.service_config(True).replace('"healthCheckConfig"', '"unused"'))]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with (
        grpc.aio.insecure_channel(addresses[0], options=options) as to_inner,
        grpc.aio.insecure_channel(addresses[1], options=options) as to_outer,
    ):
        inner, outer = Inner(), Outer(EmbeddingServiceStub(to_inner))
        add_EmbeddingServiceServicer_to_server(inner, servers[0])
        add_RagServiceServicer_to_server(outer, servers[1])
        for server in servers:
            await server.start()
        with pytest.raises(GenmeshError) as failure, calling("rag", "Retrieve"):
            await RagServiceStub(to_outer).Retrieve(rag_pb2.RetrieveRequest(question="x"))
        for server in servers:
            await server.stop(0)
    assert failure.value.reason == "MODEL_UNAVAILABLE"
    assert (inner.asked, outer.asked) == (ATTEMPTS, 1)
