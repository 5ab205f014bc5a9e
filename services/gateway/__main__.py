"""python -m services.gateway"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.server import ThreadingHTTPServer

import genmesh.v1.diffusion_pb2
import genmesh.v1.embedding_pb2
import genmesh.v1.generation_pb2
import genmesh.v1.models_pb2
import genmesh.v1.rag_pb2
import genmesh.v1.tokenization_pb2
import genmesh.v1.vector_search_pb2  # noqa: F401
import grpc

from services.gateway.forward import Forwarder
from services.gateway.keys import Keys
from services.gateway.settings import Settings
from services.gateway.status import Status, serve
from services.gateway.tls import credentials
from services.runtime import channels, logs, loop, server, tracing
from services.runtime.health import Health, channel_probe
from services.runtime.metrics import Gateway
from services.runtime.settings import load


async def main() -> None:
    settings = load(Settings)
    logs.configure("gateway", settings.log_level)
    tracing.configure("gateway")
    registry = server.registry()
    keys = Keys(settings.api_keys_file)
    # Retries are the client's and the services' own; a hop that retried too would multiply them.
    to = {
        name: channels.connect(getattr(settings, f"{name}_url"), with_config=False)
        for name in ("tokenization", "embedding", "vector_search", "generation", "diffusion", "rag")
    }
    routes = {
        "genmesh.v1.TokenizationService": to["tokenization"],
        "genmesh.v1.EmbeddingService": to["embedding"],
        "genmesh.v1.VectorSearchService": to["vector_search"],
        "genmesh.v1.GenerationService": to["generation"],
        "genmesh.v1.ModelService": to["generation"],
        "genmesh.v1.DiffusionService": to["diffusion"],
        "genmesh.v1.RagService": to["rag"],
    }
    counted = server.server_metrics("gateway", list(routes), registry, "unknown")
    metrics = Gateway("gateway", registry, upstream=routes, tenant=keys.tenants)
    status = Status(counted, to)

    def told(down: Mapping[str, str]) -> None:
        for name in routes:
            metrics.up.labels(name).set(name not in down)

    gateway = grpc.aio.server(options=server.options(settings))
    gateway.add_generic_rpc_handlers((Forwarder(settings, routes, keys, counted, metrics, status),))
    probes = {name: channel_probe(channel, name) for name, channel in routes.items()}
    health = Health(list(routes), probes, each=True, on_check=told)
    page: ThreadingHTTPServer | None = None
    watching: asyncio.Task[None] | None = None
    if settings.status_port:
        try:
            page = serve(status, health, settings.host, settings.status_port)
        except OSError as failure:
            raise SystemExit(
                f"Cannot serve the status page on {settings.host}:{settings.status_port}: {failure}"
            ) from None
        watching = asyncio.create_task(status.watch())
    try:
        await server.run(gateway, settings, health, registry, counted.lag, list(routes), credentials(settings))
    finally:
        if page is not None and watching is not None:
            watching.cancel()
            page.shutdown()
        await asyncio.gather(*(channel.close() for channel in to.values()))


loop.run(main())
