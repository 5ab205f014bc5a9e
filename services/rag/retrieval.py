"""Find the passages for a question: embed, search, rerank."""

from __future__ import annotations

import time
from typing import Any

from genmesh.v1 import embedding_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag.documents import context_line
from services.rag.upstream import Upstream
from services.rag.versions import NOTHING, Known, Reading, Rows
from services.runtime import identity, tracing
from services.runtime.channels import onward
from services.runtime.errors import Internal, calling
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch

DEFAULT_COLLECTION = "default"
# While documents change: of so many searches the last one's hits are taken, as far as their versions hold. Where other
# versions take up the room, more hits are asked for.
SEARCHES, MOST_HITS = 4, 1000
RETRIEVAL: dict[str, tracing.Value] = {
    tracing.gen_ai.GEN_AI_OPERATION_NAME: "retrieval",
    tracing.gen_ai.GEN_AI_PROVIDER_NAME: "genmesh",
}


def to_passage(hit: vector_search_pb2.SearchHit) -> pb.Passage:
    """A stored entity as a passage; names that begin with '_' are ours, the rest is the document's metadata."""
    ours = hit.entity.metadata.fields
    passage = pb.Passage(
        id=hit.entity.id, document_id=ours.get("_document", NOTHING).string_value,
        title=ours.get("_title", NOTHING).string_value,
        headings=[one.string_value for one in ours.get("_headings", NOTHING).list_value.values],
        text=hit.entity.text, score=hit.score,
    )  # fmt: skip
    for name, value in hit.entity.metadata.fields.items():
        if not name.startswith("_"):
            passage.metadata.fields[name].CopyFrom(value)
    return passage


def context_of(passage: pb.Passage) -> str:
    return context_line(passage.title, passage.headings)


class Retriever:
    def __init__(self, upstream: Upstream, metrics: Rag, candidates: int) -> None:
        self.upstream, self.metrics, self.candidates = upstream, metrics, candidates
        self.known = Known()

    def _done(self, watch: Stopwatch, stage: str) -> None:
        self.metrics.stage.labels(stage).observe(watch.stage(stage))

    async def embed(self, question: str, context: Any, watch: Stopwatch) -> list[float]:
        with tracing.span("rag embed"), calling("embedding", "Embed"):
            answer = await self.upstream.embedding.Embed(
                embedding_pb2.EmbedRequest(inputs=[question]), **onward(context)
            )
        self._done(watch, "embed")
        if answer.results[0].HasField("error"):
            raise Internal(f"the question could not be embedded: {answer.results[0].error.message}")
        return list(answer.results[0].embedding.values)

    async def search(
        self, vector: list[float], collection: str, where: str, limit: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        request = vector_search_pb2.SearchRequest(
            collection=collection or DEFAULT_COLLECTION,
            vectors=[vector_search_pb2.QueryVector(values=vector)], limit=limit, filter=where,
        )  # fmt: skip
        rows = Rows(self.upstream.vectors, request.collection, lambda: onward(context))
        reading = Reading(rows, self.known, identity.current().tenant)
        kept: list[vector_search_pb2.SearchHit] = []
        with tracing.span("rag search", attributes=RETRIEVAL):
            for _ in range(SEARCHES):
                begun = time.monotonic()
                with calling("vector_search", "Search"):
                    answer = await self.upstream.vectors.Search(request, **onward(context))
                hits = answer.results[0].hits
                kept, again = await reading.whole(hits, begun)
                short = len(kept) < limit and len(hits) == request.limit < MOST_HITS
                if not again and not short:
                    break
                request.limit = min(2 * request.limit, MOST_HITS) if short else request.limit
        self._done(watch, "search")
        return [to_passage(hit) for hit in kept[:limit]]

    async def rerank(
        self, question: str, passages: list[pb.Passage], top: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        """The best passages, best first; a passage is read with its headings."""
        texts = [f"{context_of(p)}\n{p.text}" for p in passages]
        request = embedding_pb2.RerankRequest(query=question, passages=texts, top_n=top)
        with tracing.span("rag rerank"), calling("embedding", "Rerank"):
            answer = await self.upstream.embedding.Rerank(request, **onward(context))
        chosen = []
        for ranked in answer.passages:
            passage = passages[ranked.index]
            passage.score = ranked.score
            chosen.append(passage)
        self._done(watch, "rerank")
        return chosen

    async def retrieve(self, request: pb.RetrieveRequest, top: int, context: Any, watch: Stopwatch) -> list[pb.Passage]:
        vector = await self.embed(request.question, context, watch)
        limit = top if request.skip_rerank else max(self.candidates, top)
        passages = await self.search(vector, request.collection, request.filter, limit, context, watch)
        if passages and not request.skip_rerank:
            passages = await self.rerank(request.question, passages, top, context, watch)
        for number, passage in enumerate(passages, 1):
            passage.number = number
        return passages
