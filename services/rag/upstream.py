"""The services that rag asks, by their stubs."""

from __future__ import annotations

import grpc
from genmesh.v1.embedding_pb2_grpc import EmbeddingServiceStub
from genmesh.v1.generation_pb2_grpc import GenerationServiceStub
from genmesh.v1.tokenization_pb2_grpc import TokenizationServiceStub
from genmesh.v1.vector_search_pb2_grpc import VectorSearchServiceStub

from services.rag.settings import Settings
from services.runtime import channels
from services.runtime.health import Probe, channel_probe


class Upstream:
    def __init__(self, settings: Settings) -> None:
        self.channels: dict[str, grpc.aio.Channel] = {
            "genmesh.v1.TokenizationService": channels.connect(settings.tokenization_url),
            "genmesh.v1.EmbeddingService": channels.connect(settings.embedding_url),
            "genmesh.v1.VectorSearchService": channels.connect(settings.vector_search_url),
            "genmesh.v1.GenerationService": channels.connect(settings.generation_url),
        }
        tokenization, embedding, vectors, generation = self.channels.values()
        self.tokenization: TokenizationServiceStub = TokenizationServiceStub(tokenization)
        self.embedding: EmbeddingServiceStub = EmbeddingServiceStub(embedding)
        self.vectors: VectorSearchServiceStub = VectorSearchServiceStub(vectors)
        self.generation: GenerationServiceStub = GenerationServiceStub(generation)

    def probes(self) -> dict[str, Probe]:
        return {name: channel_probe(channel, name) for name, channel in self.channels.items()}

    async def close(self) -> None:
        for channel in self.channels.values():
            await channel.close()
