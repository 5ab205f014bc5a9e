"""Proto in, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import numpy as np
from genmesh.v1 import common_pb2 as common
from genmesh.v1 import embedding_pb2 as pb
from genmesh.v1 import embedding_pb2_grpc as pb_grpc

from services.embedding.vectors import Embedded, Vectors
from services.runtime.metrics import Embedding
from services.runtime.models import Card, Catalogue
from services.runtime.outcome import cache_info
from services.runtime.validation import Fields
from services.runtime.work import aside

CHARACTERS = 100_000
SPECIAL_TOKENS = 4  # around a text or a pair, at most
# No tokenizer's tokens have more on average, over a whole context.
BYTES_PER_TOKEN = 64


def input_fault(text: str) -> pb.InputError | None:
    """Why one input cannot be embedded."""
    if not text:
        return pb.InputError(reason="INPUT_EMPTY", message="the input is empty")
    if not text.strip():
        return pb.InputError(reason="INPUT_BLANK", message="the input holds white space only")
    if len(text) > CHARACTERS:
        message = f"the input has {len(text)} characters; at most {CHARACTERS} are allowed"
        return pb.InputError(reason="INPUT_TOO_LONG", message=message)
    return None


def truncated(card: Card, query: str, passages: Sequence[str]) -> tuple[bool, list[bool]]:
    """Whether a reranker does not read all of a query, and of each passage."""
    most, tokenizer = card.context_tokens, card.data_tokenizer
    pairs = card.facts.get("scoring") == "cross-encoder"

    def cut(text: str, beside: str = "") -> bool:
        size = len(text.encode()) + len(beside.encode())
        if size <= most - SPECIAL_TOKENS:
            return False
        if size > most * BYTES_PER_TOKEN:
            return True
        (encoding,) = tokenizer.encode_batch_fast([(beside, text) if beside else text])
        return len(encoding.ids) > most

    return cut(query), [cut(passage, query if pairs else "") for passage in passages]


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    def __init__(self, catalogue: Catalogue, vectors: Vectors, metrics: Embedding) -> None:
        self.catalogue, self.vectors, self.metrics = catalogue, vectors, metrics

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        return await self._embed(request, context, "")

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: Any
    ) -> AsyncGenerator[pb.EmbedStreamResponse, None]:
        async for message in request_iterator:
            fields = Fields()
            fields.text("correlation_id", message.correlation_id, least=0, most=128, blank=True)
            fields.done()
            response = await self._embed(message.request, context, "request.")
            yield pb.EmbedStreamResponse(response=response, correlation_id=message.correlation_id)

    async def _embed(self, request: pb.EmbedRequest, context: Any, prefix: str) -> pb.EmbedResponse:
        card = self.catalogue.get(request.model, "embedder", "embed")
        fields = Fields()
        fields.size(f"{prefix}inputs", request.inputs, most=1024)
        fields.done()
        faults = [input_fault(text) for text in request.inputs]
        good = [text for text, fault in zip(request.inputs, faults, strict=True) if fault is None]
        embedded, answered = list[Embedded](), True
        if good and request.bulk:
            embedded = await self.vectors.bulk(card, good, context.time_remaining())
        elif good:
            embedded, answered = await self.vectors.embed(card, good, context.time_remaining())
        size = 4 * card.facts["dimension"] * len(embedded)
        return await aside(size, self._response, card, request, faults, embedded, answered=answered)

    def _response(
        self, card: Card, request: pb.EmbedRequest, faults: Sequence[pb.InputError | None], embedded: Sequence[Embedded],
        *, answered: bool,
    ) -> pb.EmbedResponse:  # fmt: skip
        response = pb.EmbedResponse(dimension=card.facts["dimension"], model_revision=card.revision)
        rest = iter(embedded)
        read = 0
        for fault in faults:
            if fault is None:
                item = next(rest)
                truncated = item.tokens > card.context_tokens
                if request.reject_overlong and truncated:
                    message = f"the input has {item.tokens} tokens; the model reads {card.context_tokens}"
                    fault = pb.InputError(reason="INPUT_TOO_LONG", message=message)
                else:
                    result = response.results.add().embedding
                    result.values.extend(item.vector.tolist())
                    result.truncated = truncated
                    read += 0 if item.cached else min(item.tokens, card.context_tokens)
            if fault is not None:
                response.results.add().error.CopyFrom(fault)
                self.metrics.inputs.labels("error").inc()
            else:
                self.metrics.inputs.labels("ok").inc()
        hits = sum(item.cached for item in embedded)
        if not request.bulk:
            response.cache.CopyFrom(cache_info(hits=hits, misses=len(embedded) - hits, answered=answered))
        response.usage.CopyFrom(common.Usage(input_tokens=read))
        return response

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        card = self.catalogue.get(request.model, "reranker", "rerank")
        fields = Fields()
        fields.text("query", request.query, most=10_000)
        fields.size("passages", request.passages, most=512)
        for i, passage in enumerate(request.passages):
            fields.text(f"passages[{i}]", passage, most=CHARACTERS)
        top = fields.defaulted("top_n", request.top_n, len(request.passages), 512)
        fields.done()
        scores = await self.vectors.rerank(card, request.query, request.passages, context.time_remaining())
        best = [int(i) for i in np.argsort(-scores, kind="stable")[:top]]
        chosen = [request.passages[i] for i in best]
        query_cut, cut = await aside(request.ByteSize(), truncated, card, request.query, chosen)
        return pb.RerankResponse(
            passages=[
                pb.RerankedPassage(index=i, score=float(scores[i]), truncated=one)
                for i, one in zip(best, cut, strict=True)
            ],
            model_revision=card.revision,
            query_truncated=query_cut,
        )
