"""python -m services.rag"""

from __future__ import annotations

import socket

from genmesh.v1.rag_pb2_grpc import add_RagServiceServicer_to_server

from services.rag.embedders import Embedders
from services.rag.ingest import Ingester
from services.rag.pipeline import Pipeline
from services.rag.retrieval import Retriever
from services.rag.servicer import RagServicer
from services.rag.settings import Settings
from services.rag.upstream import Upstream
from services.rag.versions import Cleaner
from services.runtime import logs, loop, server, tracing
from services.runtime.metrics import Rag
from services.runtime.settings import load


async def main() -> None:
    settings = load(Settings)
    logs.configure("rag", settings.log_level)
    tracing.configure("rag")
    registry = server.registry()
    metrics, upstream, embedders = Rag("rag", registry), Upstream(settings), Embedders()
    retriever = Retriever(upstream, metrics, settings, embedders)
    cleaner = Cleaner(f"{socket.gethostname()}:{settings.port}", settings.abandoned_after_seconds)
    servicer = RagServicer(
        Pipeline(upstream, retriever, metrics, settings),
        retriever,
        Ingester(upstream, metrics, settings, cleaner, embedders),
    )

    async def close() -> None:
        cleaner.close()
        await upstream.close()

    part = server.Part("genmesh.v1.RagService", lambda s: add_RagServiceServicer_to_server(servicer, s))
    await server.serve("rag", settings, [part], upstream.probes(), registry, close)


loop.run(main())
