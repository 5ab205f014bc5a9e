"""python -m services.tokenization"""

from __future__ import annotations

from genmesh.v1.tokenization_pb2_grpc import add_TokenizationServiceServicer_to_server

from services.runtime import logs, loop, server, tracing
from services.runtime.cache import Cache
from services.runtime.metrics import Tokenization
from services.runtime.models import Catalogue
from services.runtime.settings import load
from services.tokenization.servicer import TokenizationServicer
from services.tokenization.settings import Settings


async def main() -> None:
    settings = load(Settings)
    logs.configure("tokenization", settings.log_level)
    tracing.configure("tokenization")
    metrics = server.registry()
    cache = Cache("tokenization", "count", settings, metrics)
    servicer = TokenizationServicer(Catalogue(settings.models_dir), cache, Tokenization("tokenization", metrics))
    for card in servicer.catalogue.cards.values():
        if card.has_tokenizer:
            card.tokenizer.encode("warm up")
    part = server.Part(
        "genmesh.v1.TokenizationService", lambda s: add_TokenizationServiceServicer_to_server(servicer, s)
    )
    await server.serve("tokenization", settings, [part], {}, metrics, cache.close, cache.probes())


loop.run(main())
