"""python -m services.vector_search"""

from __future__ import annotations

import asyncio
import logging

from genmesh.v1.vector_search_pb2_grpc import add_VectorSearchServiceServicer_to_server

from services.runtime import logs, loop, server, tracing
from services.runtime.metrics import VectorSearch
from services.runtime.settings import load
from services.vector_search.servicer import VectorSearchServicer
from services.vector_search.settings import Settings
from services.vector_search.store import Store


async def main() -> None:
    settings = load(Settings)
    logs.configure("vector_search", settings.log_level)
    tracing.configure("vector_search")
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its tracebacks repeat what the store logs
    registry = server.registry()
    store = Store(
        settings.milvus_url,
        settings.milvus_token.get_secret_value(),
        VectorSearch("vector_search", registry),
        settings.flush_after_seconds,
        settings.milvus_patience_seconds,
    )
    servicer = VectorSearchServicer(store)
    part = server.Part(
        "genmesh.v1.VectorSearchService", lambda s: add_VectorSearchServiceServicer_to_server(servicer, s)
    )
    sealing = asyncio.create_task(store.seal())

    async def close() -> None:
        sealing.cancel()
        await store.close()

    await server.serve("vector_search", settings, [part], {"milvus": store.ping}, registry, close)


loop.run(main())
