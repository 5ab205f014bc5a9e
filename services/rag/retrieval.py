"""Find the passages for a question: embed, search, rerank; optionally expand the question before, and read parents after."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from genmesh.v1 import embedding_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag.documents import context_line
from services.rag.embedders import Embedders, fitting
from services.rag.optional import Stage, Writer
from services.rag.parents import joined, parent_of
from services.rag.settings import Settings
from services.rag.upstream import Upstream
from services.rag.versions import NOTHING, Known, Reading, Row, Rows, passage_id, row_of
from services.runtime import identity, tracing
from services.runtime.channels import onward
from services.runtime.errors import GenmeshError, Internal, calling
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch

DEFAULT_COLLECTION = "default"
# While documents change: of so many searches the last one's hits are taken, as far as their versions hold. Where other
# versions take up the room, more hits are asked for.
SEARCHES, MOST_HITS = 4, 1000
# Chosen on XQuAD in English, German and Chinese (docs/retrieval.md): of vectors beside words; of the search beside the
# reranker; of the scores of other candidates with the same parent; of the similarity to the best three candidates.
DENSE, SEARCHED, SIBLINGS, FEEDBACK = 0.7, 0.7, 0.1, 0.2
BEST = 3
# The weight of all reformulations together; the rest is the question's own.
REFORMULATED = 1 / 3
FUSION = vector_search_pb2.Fusion(weighted=vector_search_pb2.WeightedFusion(dense=DENSE, bm25=1 - DENSE))
# Of a collection, and of a vector search of before there was BM25, as while one release takes another's place.
WITHOUT_WORDS = ("BM25_NOT_AVAILABLE", "SEARCH_MODE_NOT_AVAILABLE")
# How long a collection without BM25 search is taken for one; and of how many that is known.
WORDLESS_SECONDS, MOST_WORDLESS = 60.0, 10_000
RETRIEVAL: dict[str, tracing.Value] = {
    tracing.gen_ai.GEN_AI_OPERATION_NAME: "retrieval",
    tracing.gen_ai.GEN_AI_PROVIDER_NAME: "genmesh",
}


@dataclass
class Found:
    """A passage with its vector, its row and the positions of its parent (``parents.py``)."""

    passage: pb.Passage
    vector: Sequence[float] = ()
    row: Row | None = None
    parent: tuple[int, int] | None = None


def from_hit(hit: vector_search_pb2.SearchHit) -> Found:
    """A stored entity as a passage; names that begin with '_' are ours, the rest is the document's metadata."""
    ours, row = hit.entity.metadata.fields, row_of(hit.entity)
    parent = parent_of(ours, row.position) if row is not None else None
    passage = pb.Passage(
        id=hit.entity.id, document_id=ours.get("_document", NOTHING).string_value,
        title=ours.get("_title", NOTHING).string_value,
        headings=[one.string_value for one in ours.get("_headings", NOTHING).list_value.values],
        text=hit.entity.text, score=hit.score, search_score=hit.score,
        parent_id=f"{row.document}#{row.revision}#{parent[0]}-{parent[1]}" if row and parent else "",
    )  # fmt: skip
    for name, value in ours.items():
        if not name.startswith("_"):
            passage.metadata.fields[name].CopyFrom(value)
    return Found(passage, hit.entity.vector, row, parent)


def context_of(passage: pb.Passage) -> str:
    return context_line(passage.title, passage.headings)


Mode: TypeAlias = vector_search_pb2.SearchMode.ValueType
BM25 = vector_search_pb2.SEARCH_MODE_BM25
HYBRID, BY_VECTORS = vector_search_pb2.SEARCH_MODE_HYBRID, vector_search_pb2.SEARCH_MODE_DENSE


Asked: TypeAlias = pb.RetrieveRequest | pb.AnswerRequest


@dataclass(frozen=True)
class Query:
    """``wordings``: the question and its reformulations; ``vectors``: one for each, none for BM25. ``hypothetical``: answers
    whose vectors are averaged with the question's (HyDE)."""

    wordings: list[str]
    mode: Mode
    hypothetical: list[str] = field(default_factory=list)
    vectors: list[Sequence[float]] = field(default_factory=list)
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


def scaled(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """float64 (n,): 0 for the least and 1 for the greatest; 1 for all where they are the same."""
    values = np.asarray(scores, dtype=np.float64)
    least, span = values.min(), values.max() - values.min()
    return (values - least) / span if span > 0 else np.ones_like(values)


def mean(vectors: Sequence[Sequence[float]]) -> list[float]:
    """The mean of the vectors' directions, with the length of the first vector."""
    rows = np.asarray(vectors, dtype=np.float32)
    between = unit(unit(rows).sum(axis=0, keepdims=True))[0] * np.linalg.norm(rows[0])
    return [float(value) for value in between]


def unit(rows: np.ndarray) -> np.ndarray:
    """Vectors (n, dimension) with length 1; those of length 0 stay."""
    lengths: np.ndarray = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / lengths)


def siblings(parents: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """float64 (n,): for each passage the sum of the scores of the other passages with its parent."""
    together: dict[str, float] = {}
    for parent, score in zip(parents, scores, strict=True):
        together[parent] = together.get(parent, 0.0) + float(score)
    return np.asarray([together[parent] - score for parent, score in zip(parents, scores, strict=True)])


def fused(results: Sequence[Sequence[vector_search_pb2.SearchHit]]) -> list[vector_search_pb2.SearchHit]:
    """Merge the hits of a question's wordings, best first, by the weighted mean of their scores. If a wording did not find a
    passage, the score of its last hit counts. The hits of a single wording stay as they are."""
    own, *others = results
    if not others:
        return list(own)
    weights = [1 - REFORMULATED, *[REFORMULATED / len(others)] * len(others)]
    hits = {hit.entity.id: hit for result in reversed(results) for hit in result}
    distances = any(result[0].score < result[-1].score for result in results if result)
    last = [result[-1].score if result else 0.0 for result in results]
    scores = [{hit.entity.id: hit.score for hit in result} for result in results]
    for name, hit in hits.items():
        hit.score = sum(w * found.get(name, low) for w, found, low in zip(weights, scores, last, strict=True))
    return sorted(hits.values(), key=lambda hit: hit.score if distances else -hit.score)


def distinct(passages: Sequence[Found]) -> list[Found]:
    """Of passages with the same text, as a document's copies have, the first: a context has room for it once."""
    first: dict[str, Found] = {}
    for one in passages:
        first.setdefault(" ".join(one.passage.text.split()), one)
    return list(first.values())


class Retriever:
    def __init__(self, upstream: Upstream, metrics: Rag, settings: Settings, embedders: Embedders) -> None:
        self.upstream, self.metrics, self.settings, self.embedders = upstream, metrics, settings, embedders
        self.mode: Mode = vector_search_pb2.SearchMode.Value(f"SEARCH_MODE_{settings.search_mode.upper()}")
        self.known, self.wordless, self.writer = Known(), Wordless(), Writer(upstream, settings)

    async def find(
        self, request: Asked, top: int, context: Any, watch: Stopwatch, *, rerank: bool = True, once: bool = False
    ) -> AsyncGenerator[str | pb.GeneratedQuery | list[pb.Passage], None]:
        """Yields the name of each stage as it begins, what the generator wrote, and last the passages, best first. ``once``:
        leave out passages with the same text as a better one."""
        question, mode, settings = request.question.strip(), request.search_mode, self.settings
        stage = Stage(self.metrics, context, watch)
        if request.history:
            yield "rewrite"
            query = await self.writer.rewrite(stage, question, request.history, request.model)
            question = query.texts[0] if query.texts else question
            yield query
        wordings, hypothetical = [question], list[str]()
        count = request.expansions if request.HasField("expansions") else settings.expansions
        if count:
            yield "expand"
            query = await self.writer.expand(stage, question, count, request.model)
            wordings += query.texts
            yield query
        if mode != BM25 and (request.hyde if request.HasField("hyde") else settings.hyde):
            yield "hyde"
            query = await self.writer.hyde(stage, question, request.model)
            hypothetical += query.texts
            yield query
        yield "embed"
        asked = await self.embed(Query(wordings, mode, hypothetical), request.collection, context, watch)
        yield "search"
        parents = request.parents if request.HasField("parents") else settings.parents
        limit = max(settings.candidates, top) if rerank or parents else top
        hits = await self.search(asked, request.collection, request.filter, limit, context, watch, vectors=rerank)
        if hits and rerank:
            yield "rerank"
            hits = await self.rerank(question, distinct(hits) if once else hits, context, watch)
        if hits and parents:
            yield "parents"
            hits = await self.widened(hits, top, request.collection, stage)
        passages = [one.passage for one in hits[:top]]
        for number, passage in enumerate(passages, 1):
            passage.number = number
        yield passages

    def _done(self, watch: Stopwatch, stage: str) -> None:
        self.metrics.stage.labels(stage).observe(watch.stage(stage))

    async def embed(self, query: Query, collection: str, context: Any, watch: Stopwatch) -> Query:
        """By the model of the collection, as far as it is known."""
        if query.mode == BM25:
            return query
        collection = collection or DEFAULT_COLLECTION
        model = self.embedders.of(collection)
        try:
            return await self._embed(model, query, context, watch)
        except GenmeshError as failure:
            if not model or failure.reason != "MODEL_NOT_FOUND":
                raise
            self.embedders.learn(collection, "")
            return await self._embed("", query, context, watch)

    async def _embed(self, model: str, query: Query, context: Any, watch: Stopwatch) -> Query:
        """Generated texts that cannot be embedded, such as too long ones, are left out."""
        with tracing.span("rag embed"), calling("embedding", "Embed"):
            answer = await self.upstream.embedding.Embed(
                embedding_pb2.EmbedRequest(model=model, inputs=[*query.wordings, *query.hypothetical]),
                **onward(context),
            )
        self._done(watch, "embed")
        if answer.results[0].HasField("error"):
            raise Internal(f"the question could not be embedded: {answer.results[0].error.message}")
        vectors = {
            text: result.embedding.values
            for text, result in zip([*query.wordings, *query.hypothetical], answer.results, strict=True)
            if not result.HasField("error")
        }
        wordings = [text for text in query.wordings if text in vectors]
        found = [vectors[text] for text in wordings]
        if answers := [vectors[text] for text in query.hypothetical if text in vectors]:
            found[0] = mean([found[0], *answers])
        return replace(query, wordings=wordings, vectors=found, model_revision=answer.model_revision)

    async def search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch, *,
        vectors: bool = False,
    ) -> list[Found]:  # fmt: skip
        """Where the collection's vectors are of another model, the question is embedded by that and searched again; where it
        has no BM25 search, and nobody asked for that, by vectors. ``vectors``: read the vectors of the hits, too."""
        collection = collection or DEFAULT_COLLECTION
        refused: GenmeshError | None = None
        while True:
            try:
                return await self._search(query, collection, where, limit, context, watch, vectors)
            except GenmeshError as failure:
                if failure.reason in WITHOUT_WORDS and not query.mode and collection not in self.wordless:
                    self.wordless.learn(collection)
                    continue
                if not self.embedders.other(collection, failure) or refused is not None:
                    raise
                refused = failure
            query = await self.embed(query, collection, context, watch)
            if query.model_revision == refused.metadata["request_revision"]:  # the model is not served
                raise refused

    async def _search(
        self, query: Query, collection: str, where: str, limit: int, context: Any, watch: Stopwatch, vectors: bool
    ) -> list[Found]:
        mode = query.mode or (BY_VECTORS if collection in self.wordless else self.mode)
        request = vector_search_pb2.SearchRequest(
            collection=collection, mode=mode, limit=limit, filter=where, model_revision=query.model_revision,
            vectors=[vector_search_pb2.QueryVector(values=one) for one in query.vectors] if mode != BM25 else [],
            texts=query.wordings if mode != BY_VECTORS else [], fusion=FUSION if mode == HYBRID else None,
            include_vectors=vectors,
        )  # fmt: skip
        rows = Rows(self.upstream.vectors, request.collection, lambda: onward(context))
        reading = Reading(rows, self.known, identity.current().tenant)
        kept: list[vector_search_pb2.SearchHit] = []
        with tracing.span("rag search", attributes=RETRIEVAL):
            for _ in range(SEARCHES):
                begun = time.monotonic()
                with fitting(), calling("vector_search", "Search"):
                    answer = await self.upstream.vectors.Search(request, **onward(context))
                kept, again = await reading.whole(fused([result.hits for result in answer.results]), begun)
                kept = [hit for hit in kept if hit.entity.text.strip()]  # what Upsert stored may have no text to read
                full = any(len(result.hits) == request.limit for result in answer.results)
                short = len(kept) < limit and full and request.limit < MOST_HITS
                if not again and not short:
                    break
                request.limit = min(2 * request.limit, MOST_HITS) if short else request.limit
        self._done(watch, "search")
        return [from_hit(hit) for hit in kept[:limit]]

    async def rerank(self, question: str, passages: list[Found], context: Any, watch: Stopwatch) -> list[Found]:
        """Order candidates, best first, by their scores (``Passage.score`` in rag.proto). The reranker reads headings, too.

        Pseudo relevance feedback assumes that passages similar to the best ones are relevant, too (Li et al. 2021,
        https://arxiv.org/abs/2108.11044). Here it reorders the candidates; it does not search again.
        """
        texts = [f"{context_of(one.passage)}\n{one.passage.text}" for one in passages]
        request = embedding_pb2.RerankRequest(query=question, passages=texts)
        with tracing.span("rag rerank"), calling("embedding", "Rerank"):
            answer = await self.upstream.embedding.Rerank(request, **onward(context))
        for ranked in answer.passages:
            passages[ranked.index].passage.rerank_score = ranked.score
        searched = scaled([one.passage.search_score for one in passages])
        if passages[0].passage.search_score < passages[-1].passage.search_score:  # best first: they are distances
            searched = 1 - searched
        scores = SEARCHED * searched + (1 - SEARCHED) * scaled([one.passage.rerank_score for one in passages])
        scores += SIBLINGS * siblings([one.passage.parent_id or one.passage.id for one in passages], scores)
        vectors = unit(np.asarray([one.vector for one in passages], dtype=np.float32))
        best = np.argsort(-scores, kind="stable")[:BEST]
        feedback = vectors @ unit(scores[best][None] @ vectors[best])[0]
        scores += FEEDBACK * scaled(feedback)
        for one, score, similarity in zip(passages, scores, feedback, strict=True):
            one.passage.score, one.passage.feedback_score = score, similarity
        self._done(watch, "rerank")
        return [passages[at] for at in np.argsort(-scores, kind="stable")]

    async def widened(self, passages: list[Found], top: int, collection: str, stage: Stage) -> list[Found]:
        """Merge passages with the same parent into the best of them and give it the parent's text; at most ``top`` are left. A
        passage keeps its own text if its parent cannot be read completely."""
        families: dict[str, Found] = {}
        for one in passages:
            family = families.setdefault(one.passage.parent_id or one.passage.id, one)
            family.passage.found_ids.append(one.passage.id)
        best = list(families.values())[:top]
        ids = {
            one.passage.id: [passage_id(one.row.document, one.row.revision, at) for at in range(first, last + 1)]
            for one in best
            if one.row is not None and one.parent is not None
            for first, last in [one.parent]
        }
        with stage.run("parents"):
            seconds = self.settings.parents_seconds
            rows = Rows(self.upstream.vectors, collection or DEFAULT_COLLECTION, lambda: stage.arguments(seconds))
            wanted = [name for names in ids.values() for name in names]
            there = {entity.id: entity for entity in await rows.get(wanted)}
            for one in best:
                names = ids.get(one.passage.id, [])
                if names and all(name in there for name in names):
                    one.passage.text = joined([there[name] for name in names])
        return best
