"""Which search a question gets, and in what order passages are read."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from genmesh.v1 import embedding_pb2, generation_pb2
from genmesh.v1 import rag_pb2 as pb
from genmesh.v1 import vector_search_pb2 as vectors
from prometheus_client import CollectorRegistry

from services.rag import prompt, retrieval
from services.rag.embedders import Embedders
from services.rag.retrieval import Retriever, distinct, from_hit, fused, mean, scaled, siblings
from services.rag.settings import Settings
from services.runtime.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GenmeshError,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
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
        self.reranked: list[str] = []
        self.entities: dict[str, vectors.Entity] = {}
        self.written: str | GenmeshError = ""
        self.chats: list[tuple[generation_pb2.ChatRequest, float]] = []
        self.embedding = self.vectors = self.generation = self

    async def Embed(self, request: Any, **_: Any) -> embedding_pb2.EmbedResponse:
        self.embedded += 1
        answer = embedding_pb2.EmbedResponse(dimension=2, model_revision="embedder@1")
        for text in request.inputs:
            if text.startswith("too long"):
                answer.results.add().error.message = "too long"
            else:
                answer.results.add().embedding.values.extend([1, 0] if text == "why?" else [0, 2])
        return answer

    async def Chat(self, request: Any, timeout: float, **_: Any) -> generation_pb2.ChatResponse:
        self.chats.append((request, timeout))
        if isinstance(self.written, GenmeshError):
            raise failure_of(self.written)
        answer = generation_pb2.ChatResponse(message={"role": "assistant", "content": self.written})
        answer.usage.input_tokens = 7
        return answer

    async def Get(self, request: Any, **_: Any) -> vectors.GetResponse:
        if isinstance(self.written, GenmeshError):
            raise failure_of(self.written)
        return vectors.GetResponse(entities=[self.entities[one] for one in request.ids if one in self.entities])

    async def Search(self, request: vectors.SearchRequest, **_: Any) -> vectors.SearchResponse:
        self.searches.append(vectors.SearchRequest.FromString(request.SerializeToString()))
        if request.mode in (BM25, HYBRID) and self.refusal:
            raise failure_of(self.refusal)
        entities = list(self.entities.values()) or [
            vectors.Entity(id=str(i), text=f"text {i}", vector=[1, 0]) for i in range(len(self.hits))
        ]
        hits = [
            vectors.SearchHit(entity=entity, score=score) for entity, score in zip(entities, self.hits, strict=False)
        ]
        results = [vectors.SearchHits(hits=hits[: request.limit]) for _ in request.texts or request.vectors]
        return vectors.SearchResponse(results=results)

    async def Rerank(self, request: Any, **_: Any) -> embedding_pb2.RerankResponse:
        self.reranked = [request.query]
        scores = self.ranked[: len(request.passages)]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[: request.top_n or None]
        ranked = [embedding_pb2.RerankedPassage(index=i, score=scores[i]) for i in order]
        return embedding_pb2.RerankResponse(passages=ranked)


@pytest.fixture(autouse=True)
def alpha(as_tenant: Any) -> None:
    as_tenant("alpha")


def settings(**more: Any) -> Settings:
    """A service's settings, with what must be said."""
    urls = {f"{name}_url": "nowhere:1" for name in ("tokenization", "embedding", "vector_search", "generation")}
    said = {"port": 1, "metrics_port": 2, "identity_secret": "x" * 16, "candidates": 3}
    return Settings(**(said | urls | more))


def made(services: Any, **more: Any) -> Retriever:
    return Retriever(services, Rag("rag", CollectorRegistry()), settings(**more), Embedders())


async def steps(retriever: Retriever, request: pb.RetrieveRequest, top: int = 2, context: Any = CONTEXT) -> list[Any]:
    """Stages, what the generator wrote, and at last the passages."""
    find = retriever.find(request, top, context, Stopwatch(), rerank=not request.skip_rerank)
    return [step async for step in find]


async def retrieve(retriever: Retriever, mode: Any = UNSPECIFIED, top: int = 2, **more: Any) -> list[pb.Passage]:
    request = pb.RetrieveRequest(question="why?", search_mode=mode, **more)
    found: list[pb.Passage] = (await steps(retriever, request, top))[-1]
    return found


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
    retriever = made(services, search_mode="dense")
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
    # All three are the first three, and alike: feedback is the same for all.
    scores = [0.7 * (0.8 - 0.1) / 0.8 + 0.3 + 0.2, 0.7 + 0.2, 0.15 + 0.2]
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
    assert list(scaled([3.0, 3.0])) == [1.0, 1.0]
    assert list(scaled([2.0])) == [1.0]
    draw = random.Random(0)
    scores = [draw.gauss(0, 1) for _ in range(50)]
    assert (min(scaled(scores)), max(scaled(scores))) == (0.0, 1.0)


def test_of_passages_with_the_same_text_the_first_stays() -> None:
    texts = ["a b", "c", "a  b\n", "A b", "c"]
    hits = [vectors.SearchHit(entity=vectors.Entity(id=str(i), text=t)) for i, t in enumerate(texts)]
    assert [one.passage.id for one in distinct([from_hit(hit) for hit in hits])] == ["0", "1", "3"]


def hits(**scores: float) -> list[vectors.SearchHit]:
    return [vectors.SearchHit(entity=vectors.Entity(id=name), score=score) for name, score in scores.items()]


def test_a_question_in_its_own_words_counts_as_much_as_twice_the_others() -> None:
    def scores(*results: list[vectors.SearchHit]) -> dict[str, float]:
        return {hit.entity.id: pytest.approx(hit.score, abs=1e-6) for hit in fused(results)}

    assert scores(hits(a=0.5, b=0.5)) == {"a": 0.5, "b": 0.5}
    found = scores(hits(a=0.9, b=0.6), hits(c=1.0, b=0.9, a=0.6), hits(c=1.0, d=0.3))
    assert found == {
        "a": 0.6 + 0.1 + 0.3 / 6,
        "b": 0.4 + 0.15 + 0.3 / 6,
        "c": 0.4 + 1 / 6 + 1 / 6,  # the question did not find it: as its last hit
        "d": 0.4 + 0.1 + 0.3 / 6,
    }
    assert list(found) == ["a", "c", "b", "d"]
    assert list(scores(hits(a=0.1, b=4.0), hits(c=0.2, b=0.3))) == ["a", "c", "b"]  # distances
    assert scores(hits(a=0.9), []) == {"a": 0.6}
    assert scores([], []) == {}


def test_a_mean_is_as_long_as_the_first() -> None:
    assert mean([[2.0, 0.0], [0.0, 5.0]]) == pytest.approx([2**0.5, 2**0.5])
    assert mean([[1.0, 0.0], [-1.0, 0.0]]) == [0.0, 0.0]
    assert mean([[0.0, 0.0]]) == [0.0, 0.0]


async def test_reformulations_are_searched_for_beside_the_question() -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    services.written = "1. How so?\n2. too long\n3. For what?\n4. How come?"
    request = pb.RetrieveRequest(question=" why? ", expansions=3, model="big")
    *said, passages = await steps(made(services), request)
    query = said.pop(1)
    assert said == ["expand", "embed", "search", "rerank"]
    assert (query.stage, query.texts, query.skipped_reason) == ("expand", ["How so?", "too long", "For what?"], "")
    assert query.usage.input_tokens == 7
    ((chat, seconds),) = services.chats
    assert (chat.model, seconds) == ("big", 5)
    (search,) = services.searches
    assert search.texts == ["why?", "How so?", "For what?"]  # what cannot be embedded is left out
    assert [list(one.values) for one in search.vectors] == [[1, 0], [0, 2], [0, 2]]
    assert passages[0].search_score == pytest.approx(0.9)


async def test_an_invented_answer_moves_the_vector_and_not_the_words() -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    services.written = "Because."
    stages = [step for step in await steps(made(services, hyde=True), pb.RetrieveRequest(question="why?")) if step]
    assert stages[0] == "hyde"
    (search,) = services.searches
    assert search.texts == ["why?"]
    assert [list(one.values) for one in search.vectors] == [pytest.approx([0.5**0.5, 0.5**0.5])]
    await steps(made(services, hyde=True), pb.RetrieveRequest(question="why?", hyde=False))
    await steps(made(services, hyde=True), pb.RetrieveRequest(question="why?", search_mode=BM25))
    assert len(services.chats) == 1


@pytest.mark.parametrize(
    ("written", "reason", "outcome"),
    [
        (DeadlineExceeded("late"), "TIME_LIMIT", "timeout"),
        (ResourceExhausted("full", reason="OVERLOADED"), "OVERLOADED", "failed"),
        (prompt.NO_ANSWER, "NOTHING_WRITTEN", "failed"),
    ],
)
async def test_a_search_goes_on_without_what_was_not_written(
    written: str | GenmeshError, reason: str, outcome: str
) -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    services.written = written
    retriever = made(services, expand_seconds=20)
    late = SimpleNamespace(time_remaining=lambda: 3.0)
    found = await steps(retriever, pb.RetrieveRequest(question="why?", expansions=2, hyde=True), context=late)
    assert [(one.stage, one.skipped_reason) for one in found if isinstance(one, pb.GeneratedQuery)] == [
        ("expand", reason),
        ("hyde", reason),
    ]
    assert len(found[-1]) == 2
    assert services.searches[0].texts == ["why?"]
    assert [seconds for _, seconds in services.chats] == [1.5, 1.5]  # half of what is left
    for stage in ("expand", "hyde"):
        assert retriever.metrics.optional.labels(stage, outcome)._value.get() == 1


async def test_a_question_is_rewritten_from_earlier_turns() -> None:
    services = Services([0.9, 0.5], [0.1, 0.2])
    services.written = "When was Ada born?"
    turns = [{"role": "user", "content": "Who is Ada?"}, {"role": "assistant", "content": "A poet [1]."}]
    request = pb.RetrieveRequest(question="When was she born?", history=turns)
    *said, _ = await steps(made(services, rewrite_seconds=3), request)
    assert [step if isinstance(step, str) else step.stage for step in said[:3]] == ["rewrite", "rewrite", "embed"]
    assert said[1].texts == ["When was Ada born?"]
    ((chat, seconds),) = services.chats
    assert (chat.sampling.prompt_lookup, seconds) == (True, 3)
    assert services.searches[0].texts == services.reranked == ["When was Ada born?"]
    services.written = "She was a poet from London."  # no question that was asked
    *said, _ = await steps(made(services), request)
    assert (said[1].texts, said[1].skipped_reason) == ([], "NOTHING_WRITTEN")
    assert services.searches[1].texts == ["When was she born?"]


async def test_a_model_that_is_not_there_is_the_callers_fault() -> None:
    services = Services([0.9], [0.1])
    services.written = NotFound("none", reason="MODEL_NOT_FOUND")
    with pytest.raises(GenmeshError) as failure:
        await steps(made(services), pb.RetrieveRequest(question="why?", hyde=True, model="x"))
    assert failure.value.reason == "MODEL_NOT_FOUND"
    *_, query, _, _, _, found = await steps(made(services), pb.RetrieveRequest(question="why?", hyde=True))
    assert (query.skipped_reason, len(found)) == ("MODEL_NOT_FOUND", 1)  # none was named: there is just no generator


async def test_passages_like_the_first_ones_go_before_others() -> None:
    services = Services([0.9, 0.8, 0.7, 0.2, 0.25], [0.0] * 5)
    for i, vector in enumerate([[1, 0], [1, 0.1], [0.9, 0], [2, 0], [0, 1]]):
        services.entities[str(i)] = vectors.Entity(id=str(i), text=f"text {i}", vector=vector)
    found = await retrieve(made(services, candidates=5), top=5)
    assert [one.id for one in found] == ["0", "1", "2", "3", "4"]
    assert [one.feedback_score for one in found][3:] == pytest.approx([1, 0], abs=0.05)
    assert found[3].search_score < found[4].search_score


def family(*passages: tuple[str, list[int]]) -> dict[str, vectors.Entity]:
    """A document's passages as Ingest stores them, each with its parent."""
    found = {}
    for at, (text, parent) in enumerate(passages):
        entity = vectors.Entity(id=f"d#7#{at}", text=text, vector=[1, 0])
        entity.metadata.update({"_document": "d", "_revision": 7, "_position": at, "_parent": parent, "_space": " "})
        found[entity.id] = entity
    return found


async def test_hits_of_a_parent_become_one_passage_with_its_text() -> None:
    services = Services([0.9, 0.8, 0.5], [0.0, 0.9, 0.5])
    services.entities = family(("One.", [0, 1]), ("Two.", [0, 1]), ("Three.", [2, 2]))
    *said, found = await steps(made(services), pb.RetrieveRequest(question="why?", parents=True))
    assert said == ["embed", "search", "rerank", "parents"]
    assert [(p.id, p.text, p.parent_id, p.found_ids) for p in found] == [
        ("d#7#1", "One. Two.", "d#7#0-1", ["d#7#1", "d#7#0"]),
        ("d#7#2", "Three.", "d#7#2-2", ["d#7#2"]),
    ]
    passages = (await steps(made(services), pb.RetrieveRequest(question="why?", parents=False)))[-1]
    assert [(p.text, p.found_ids) for p in passages] == [("Two.", []), ("One.", [])]
    # Who asks for one passage gets it, though more were to be found for its parent.
    best = (await steps(made(services, parents=True), pb.RetrieveRequest(question="why?", skip_rerank=True), 1))[-1]
    assert [(p.id, p.text) for p in best] == [("d#7#0", "One. Two.")]


async def test_a_parent_that_cannot_be_read_leaves_the_passage() -> None:
    services = Services([0.9], [0.9])
    services.entities = family(("One.", [0, 1]))  # the other was deleted meanwhile
    request = pb.RetrieveRequest(question="why?", parents=True)
    assert [p.text for p in (await steps(made(services), request))[-1]] == ["One."]
    services.written = DeadlineExceeded("late")
    retriever = made(services)
    assert [p.text for p in (await steps(retriever, request))[-1]] == ["One."]
    assert retriever.metrics.optional.labels("parents", "timeout")._value.get() == 1


async def test_others_of_the_parent_speak_for_a_passage() -> None:
    assert list(siblings(["a", "b", "a", "a"], np.array([1.0, 0.5, 0.25, 0.0]))) == [0.25, 0.0, 1.0, 1.25]
