"""python -m services.embedding"""

from __future__ import annotations

from genmesh.v1.embedding_pb2_grpc import add_EmbeddingServiceServicer_to_server

from services.embedding.servicer import EmbeddingServicer
from services.embedding.settings import Settings
from services.embedding.vectors import Vectors
from services.runtime import logs, loop, server, tracing
from services.runtime.cache import Cache
from services.runtime.metrics import Embedding, Models
from services.runtime.models import Catalogue
from services.runtime.settings import load
from services.runtime.triton import Triton


async def main() -> None:
    settings = load(Settings)
    logs.configure("embedding", settings.log_level)
    tracing.configure("embedding")
    registry = server.registry()
    catalogue = Catalogue(settings.models_dir)
    names = catalogue.names("embed", "rerank")
    metrics = Embedding("embedding", registry, model=names)
    triton = Triton(settings.triton_url, Models("embedding", registry, model=names))
    catalogue.ready = triton.ready
    cache = Cache("embedding", "embedding", settings, registry)
    servicer = EmbeddingServicer(catalogue, Vectors(triton, cache, metrics), metrics)
    part = server.Part("genmesh.v1.EmbeddingService", lambda s: add_EmbeddingServiceServicer_to_server(servicer, s))

    async def close() -> None:
        await cache.close()
        await triton.close()

    probes = {
        f"triton/{name}": (lambda name=name: triton.ready(catalogue.get(name, name)))
        for name in ("embedder", "reranker")
    }
    await server.serve("embedding", settings, [part], probes, registry, close, cache.probes())


loop.run(main())
