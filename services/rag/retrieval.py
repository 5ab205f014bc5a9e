"""Find the passages for a question: embed, search, rerank."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from genmesh.v1 import embedding_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag.documents import context_line
from services.rag.embedders import Embedders, fitting
from services.rag.upstream import Upstream
from services.rag.versions import NOTHING, Known, Reading, Rows
from services.runtime import identity, tracing
from services.runtime.channels import onward
from services.runtime.errors import GenmeshError, Internal, calling
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


@dataclass(frozen=True)
class Query:
    """A question and its vector."""

    question: str
    vector: list[float]
    model_revision: str


class Retriever:
    def __init__(self, upstream: Upstream, metrics: Rag, candidates: int, embedders: Embedders) -> None:
        self.upstream, self.metrics, self.candidates, self.embedders = upstream, metrics, candidates, embedders
        self.known = Known()

    def _done(self, watch: Stopwatch, stage: str) -> None:
        self.metrics.stage.labels(stage).observe(watch.stage(stage))

    async def embed(self, question: str, collection: str, context: Any, watch: Stopwatch) -> Query:
        """By the model of the collection, as far as it is known."""
        collection = collection or DEFAULT_COLLECTION
        model = self.embedders.of(collection)
        try:
            return await self._embed(model, question, context, watch)
        except GenmeshError as failure:
            if not model or failure.reason != "MODEL_NOT_FOUND":
                raise
            self.embedders.learn(collection, "")
            return await self._embed("", question, context, watch)

    async def _embed(self, model: str, question: str, context: Any, watch: Stopwatch) -> Query:
        with tracing.span("rag embed"), calling("embedding", "Embed"):
            answer = await self.upstream.embedding.Embed(
                embedding_pb2.EmbedRequest(model=model, inputs=[question]), **onward(context)
            )
        self._done(watch, "embed")
        if answer.results[0].HasField("error"):
            raise Internal(f"the question could not be embedded: {answer.results[0].error.message}")
        return Query(question, list(answer.results[0].embedding.values), answer.model_revision)

    async def search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        """Where the collection's vectors are of another model, the question is embedded by that and searched again."""
        collection = collection or DEFAULT_COLLECTION
        try:
            return await self._search(query, collection, where, limit, context, watch)
        except GenmeshError as failure:
            if not self.embedders.other(collection, failure):
                raise
            refused = failure
        query = await self.embed(query.question, collection, context, watch)
        if query.model_revision == refused.metadata["request_revision"]:  # the model is not served
            raise refused
        try:
            return await self._search(query, collection, where, limit, context, watch)
        except GenmeshError as failure:
            self.embedders.other(collection, failure)
            raise

    async def _search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        request = vector_search_pb2.SearchRequest(
            collection=collection, vectors=[vector_search_pb2.QueryVector(values=query.vector)], limit=limit,
            filter=where, model_revision=query.model_revision,
        )  # fmt: skip
        rows = Rows(self.upstream.vectors, request.collection, lambda: onward(context))
        reading = Reading(rows, self.known, identity.current().tenant)
        kept: list[vector_search_pb2.SearchHit] = []
        with tracing.span("rag search", attributes=RETRIEVAL):
            for _ in range(SEARCHES):
                begun = time.monotonic()
                with fitting(), calling("vector_search", "Search"):
                    answer = await self.upstream.vectors.Search(request, **onward(context))
                hits = answer.results[0].hits
                kept, again = await reading.whole(hits, begun)
                kept = [hit for hit in kept if hit.entity.text.strip()]  # what Upsert stored may have no text to read
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
        query = await self.embed(request.question, request.collection, context, watch)
        limit = top if request.skip_rerank else max(self.candidates, top)
        passages = await self.search(query, request.collection, request.filter, limit, context, watch)
        if passages and not request.skip_rerank:
            passages = await self.rerank(request.question, passages, top, context, watch)
        for number, passage in enumerate(passages, 1):
            passage.number = number
        return passages
