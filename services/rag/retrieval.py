"""Find the passages for a question: embed, search, rerank."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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
# Chosen on XQuAD in English, German and Chinese (docs/retrieval.md): of vectors beside words, of the search beside the reranker.
DENSE, SEARCHED = 0.7, 0.7
FUSION = vector_search_pb2.Fusion(weighted=vector_search_pb2.WeightedFusion(dense=DENSE, bm25=1 - DENSE))
# Of a collection, and of a vector search of before there was BM25, as while one release takes another's place.
WITHOUT_WORDS = ("BM25_NOT_AVAILABLE", "SEARCH_MODE_NOT_AVAILABLE")
# How long a collection without BM25 search is taken for one; and of how many that is known.
WORDLESS_SECONDS, MOST_WORDLESS = 60.0, 10_000
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
        text=hit.entity.text, score=hit.score, search_score=hit.score,
    )  # fmt: skip
    for name, value in hit.entity.metadata.fields.items():
        if not name.startswith("_"):
            passage.metadata.fields[name].CopyFrom(value)
    return passage


def context_of(passage: pb.Passage) -> str:
    return context_line(passage.title, passage.headings)


Mode: TypeAlias = vector_search_pb2.SearchMode.ValueType
BM25 = vector_search_pb2.SEARCH_MODE_BM25
HYBRID, BY_VECTORS = vector_search_pb2.SEARCH_MODE_HYBRID, vector_search_pb2.SEARCH_MODE_DENSE


@dataclass(frozen=True)
class Query:
    """A question and how it is searched; its vector, but for BM25."""

    question: str
    mode: Mode
    vector: list[float] = field(default_factory=list)
    model_revision: str = ""


class Wordless:
    """Collections that have no BM25 search. A search tells; to ask first would cost every question a call."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def learn(self, collection: str) -> None:
        while len(self._until) >= MOST_WORDLESS:
            del self._until[next(iter(self._until))]
        self._until[identity.current().tenant, collection] = time.monotonic() + WORDLESS_SECONDS

    def __contains__(self, collection: str) -> bool:
        return self._until.get((identity.current().tenant, collection), 0.0) > time.monotonic()


def scaled(scores: Sequence[float]) -> list[float]:
    """To 0 for the least and 1 for the greatest."""
    least, span = min(scores), max(scores) - min(scores)
    return [(score - least) / span if span > 0 else 1.0 for score in scores]


class Retriever:
    def __init__(
        self, upstream: Upstream, metrics: Rag, candidates: int, embedders: Embedders, mode: Mode = HYBRID
    ) -> None:
        self.upstream, self.metrics, self.candidates, self.embedders = upstream, metrics, candidates, embedders
        self.mode, self.known, self.wordless = mode, Known(), Wordless()

    def _done(self, watch: Stopwatch, stage: str) -> None:
        self.metrics.stage.labels(stage).observe(watch.stage(stage))

    async def embed(self, question: str, collection: str, mode: Mode, context: Any, watch: Stopwatch) -> Query:
        """By the model of the collection, as far as it is known."""
        if mode == BM25:
            return Query(question, mode)
        collection = collection or DEFAULT_COLLECTION
        model = self.embedders.of(collection)
        try:
            return await self._embed(model, question, mode, context, watch)
        except GenmeshError as failure:
            if not model or failure.reason != "MODEL_NOT_FOUND":
                raise
            self.embedders.learn(collection, "")
            return await self._embed("", question, mode, context, watch)

    async def _embed(self, model: str, question: str, mode: Mode, context: Any, watch: Stopwatch) -> Query:
        with tracing.span("rag embed"), calling("embedding", "Embed"):
            answer = await self.upstream.embedding.Embed(
                embedding_pb2.EmbedRequest(model=model, inputs=[question]), **onward(context)
            )
        self._done(watch, "embed")
        if answer.results[0].HasField("error"):
            raise Internal(f"the question could not be embedded: {answer.results[0].error.message}")
        return Query(question, mode, list(answer.results[0].embedding.values), answer.model_revision)

    async def search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        """Where the collection's vectors are of another model, the question is embedded by that and searched again; where it
        has no BM25 search, and nobody asked for that, by vectors."""
        collection = collection or DEFAULT_COLLECTION
        refused: GenmeshError | None = None
        while True:
            try:
                return await self._search(query, collection, where, limit, context, watch)
            except GenmeshError as failure:
                if failure.reason in WITHOUT_WORDS and not query.mode and collection not in self.wordless:
                    self.wordless.learn(collection)
                    continue
                if not self.embedders.other(collection, failure) or refused is not None:
                    raise
                refused = failure
            query = await self.embed(query.question, collection, query.mode, context, watch)
            if query.model_revision == refused.metadata["request_revision"]:  # the model is not served
                raise refused

    async def _search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        mode = query.mode or (BY_VECTORS if collection in self.wordless else self.mode)
        request = vector_search_pb2.SearchRequest(
            collection=collection, mode=mode, limit=limit, filter=where, model_revision=query.model_revision,
            vectors=[vector_search_pb2.QueryVector(values=query.vector)] if mode != BM25 else [],
            texts=[query.question] if mode != BY_VECTORS else [], fusion=FUSION if mode == HYBRID else None,
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
        """The best passages, best first, by the reranker's scores and the search's; a passage is read with its headings."""
        texts = [f"{context_of(p)}\n{p.text}" for p in passages]
        request = embedding_pb2.RerankRequest(query=question, passages=texts)
        with tracing.span("rag rerank"), calling("embedding", "Rerank"):
            answer = await self.upstream.embedding.Rerank(request, **onward(context))
        for ranked in answer.passages:
            passages[ranked.index].rerank_score = ranked.score
        searched = scaled([passage.search_score for passage in passages])
        if passages[0].search_score < passages[-1].search_score:  # best first: they are distances
            searched = [1 - one for one in searched]
        for passage, ours, theirs in zip(passages, searched, scaled([p.rerank_score for p in passages]), strict=True):
            passage.score = SEARCHED * ours + (1 - SEARCHED) * theirs
        self._done(watch, "rerank")
        return sorted(passages, key=lambda passage: -passage.score)[:top]

    async def retrieve(self, request: pb.RetrieveRequest, top: int, context: Any, watch: Stopwatch) -> list[pb.Passage]:
        query = await self.embed(request.question, request.collection, request.search_mode, context, watch)
        limit = top if request.skip_rerank else max(self.candidates, top)
        passages = await self.search(query, request.collection, request.filter, limit, context, watch)
        if passages and not request.skip_rerank:
            passages = await self.rerank(request.question, passages, top, context, watch)
        for number, passage in enumerate(passages, 1):
            passage.number = number
        return passages
