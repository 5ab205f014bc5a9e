"""Which search a question gets, and in what order passages are read."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from genmesh.v1 import embedding_pb2
from genmesh.v1 import rag_pb2 as pb
from genmesh.v1 import vector_search_pb2 as vectors
from prometheus_client import CollectorRegistry

from services.rag import retrieval
from services.rag.embedders import Embedders
from services.rag.retrieval import Retriever, scaled
from services.runtime.errors import FailedPrecondition, GenmeshError, Unimplemented
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch
from tests.unit.runtime.test_errors import failure_of

CONTEXT = SimpleNamespace(time_remaining=lambda: 30.0)
UNSPECIFIED, DENSE = vectors.SEARCH_MODE_UNSPECIFIED, vectors.SEARCH_MODE_DENSE
NONE = FailedPrecondition("none", reason="BM25_NOT_AVAILABLE")
BM25, HYBRID = vectors.SEARCH_MODE_BM25, vectors.SEARCH_MODE_HYBRID


class Services:
    """Hits and their reranked scores; and how a search by words is refused, if it is."""

    def __init__(self, hits: list[float], ranked: list[float], refusal: GenmeshError | None = None) -> None:
        self.hits, self.ranked, self.refusal = hits, ranked, refusal
        self.embedded = 0
        self.searches: list[vectors.SearchRequest] = []
        self.embedding = self.vectors = self

    async def Embed(self, request: Any, **_: Any) -> embedding_pb2.EmbedResponse:
        self.embedded += 1
        result = embedding_pb2.EmbeddingResult(embedding=embedding_pb2.Embedding(values=[1, 0]))
        return embedding_pb2.EmbedResponse(results=[result], dimension=2, model_revision="embedder@1")

    async def Search(self, request: vectors.SearchRequest, **_: Any) -> vectors.SearchResponse:
        self.searches.append(vectors.SearchRequest.FromString(request.SerializeToString()))
        if request.mode in (BM25, HYBRID) and self.refusal:
            raise failure_of(self.refusal)
        hits = [
            vectors.SearchHit(entity=vectors.Entity(id=str(i), text=f"text {i}"), score=score)
            for i, score in enumerate(self.hits)
        ]
        return vectors.SearchResponse(results=[vectors.SearchHits(hits=hits[: request.limit])])

    async def Rerank(self, request: Any, **_: Any) -> embedding_pb2.RerankResponse:
        scores = self.ranked[: len(request.passages)]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[: request.top_n or None]
        ranked = [embedding_pb2.RerankedPassage(index=i, score=scores[i]) for i in order]
        return embedding_pb2.RerankResponse(passages=ranked)


@pytest.fixture(autouse=True)
def alpha(as_tenant: Any) -> None:
    as_tenant("alpha")


def made(services: Services, mode: Any = HYBRID) -> Retriever:
    return Retriever(services, Rag("rag", CollectorRegistry()), 3, Embedders(), mode)  # type: ignore[arg-type]


async def retrieve(retriever: Retriever, mode: Any = UNSPECIFIED, top: int = 2, **more: Any) -> list[pb.Passage]:
    request = pb.RetrieveRequest(question="why?", search_mode=mode, **more)
    return await retriever.retrieve(request, top, CONTEXT, Stopwatch())


async def test_a_search_is_by_vectors_and_words_where_nothing_is_said() -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    await retrieve(made(services))
    (search,) = services.searches
    assert (search.mode, search.texts, len(search.vectors), search.model_revision) == (
        HYBRID,
        ["why?"],
        1,
        "embedder@1",
    )
    assert search.fusion.weighted.dense == pytest.approx(0.7)
    assert search.fusion.weighted.bm25 == pytest.approx(0.3)


async def test_a_server_may_be_set_up_for_vectors() -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    retriever = made(services, DENSE)
    await retrieve(retriever)
    await retrieve(retriever, HYBRID)
    assert [(s.mode, len(s.texts), s.HasField("fusion")) for s in services.searches] == [
        (DENSE, 0, False),
        (HYBRID, 1, True),
    ]


async def test_a_search_by_words_embeds_nothing() -> None:
    services = Services([9.0, 5.0], [0.1, 0.2])
    assert len(await retrieve(made(services), BM25)) == 2
    (search,) = services.searches
    assert (services.embedded, search.mode, search.texts, len(search.vectors)) == (0, BM25, ["why?"], 0)


@pytest.mark.parametrize(
    "refusal",
    [NONE, Unimplemented("not yet", reason="SEARCH_MODE_NOT_AVAILABLE")],
    ids=["a collection of before", "a vector search of before"],
)
async def test_without_words_a_collection_is_searched_by_vectors_and_that_is_known_for_a_while(
    monkeypatch: pytest.MonkeyPatch, as_tenant: Any, refusal: GenmeshError
) -> None:
    services = Services([0.9, 0.5], [0.1, 0.2], refusal)
    retriever = made(services)
    for _ in range(3):
        assert len(await retrieve(retriever)) == 2
    assert [search.mode for search in services.searches] == [HYBRID, DENSE, DENSE, DENSE]
    as_tenant("beta")  # has another collection of that name
    await retrieve(retriever)
    assert [search.mode for search in services.searches[4:]] == [HYBRID, DENSE]
    as_tenant("alpha")
    monkeypatch.setattr(retrieval, "time", SimpleNamespace(monotonic=lambda: 1e12))
    services.refusal = None  # reindexed
    await retrieve(retriever)
    assert services.searches[-1].mode == HYBRID


@pytest.mark.parametrize("mode", [BM25, HYBRID])
async def test_who_asks_for_words_is_told_that_there_are_none(mode: Any) -> None:
    services = Services([0.9], [0.1], NONE)
    with pytest.raises(GenmeshError) as failure:
        await retrieve(made(services), mode)
    assert (failure.value.reason, len(services.searches)) == ("BM25_NOT_AVAILABLE", 1)


async def test_both_scores_make_the_order() -> None:
    found = await retrieve(made(Services([0.9, 0.8, 0.1], [0.0, 1.0, 0.5])), top=3)
    scores = [0.7 * (0.8 - 0.1) / 0.8 + 0.3, 0.7, 0.15]
    assert [(p.id, p.number) for p in found] == [("1", 1), ("0", 2), ("2", 3)]
    assert [p.score for p in found] == pytest.approx(scores)
    assert [p.search_score for p in found] == pytest.approx([0.8, 0.9, 0.1])
    assert [p.rerank_score for p in found] == pytest.approx([1.0, 0.0, 0.5])


async def test_distances_are_best_where_they_are_small() -> None:
    found = await retrieve(made(Services([0.1, 0.2, 4.0], [0.0, 0.0, 0.9])), DENSE, top=3)
    assert [p.id for p in found] == ["0", "1", "2"]


async def test_without_the_reranker_the_order_of_the_search_stands() -> None:
    found = await retrieve(made(Services([0.9, 0.8], [0.0, 1.0])), skip_rerank=True)
    assert [(p.id, p.HasField("rerank_score")) for p in found] == [("0", False), ("1", False)]
    assert [p.score for p in found] == [p.search_score for p in found]


def test_equal_scores_are_all_the_best() -> None:
    assert scaled([3.0, 3.0]) == [1.0, 1.0]
    assert scaled([2.0]) == [1.0]
    draw = random.Random(0)
    scores = [draw.gauss(0, 1) for _ in range(50)]
    assert (min(scaled(scores)), max(scaled(scores))) == (0.0, 1.0)
