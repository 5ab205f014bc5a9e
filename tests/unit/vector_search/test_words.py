"""BM25 and hybrid searches, on the built-in store."""

from __future__ import annotations

import math
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from genmesh.v1 import vector_search_pb2 as pb
from pymilvus import MilvusClient

from services.runtime import identity
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.vector_search import generations, replacement
from services.vector_search.analysis import words
from services.vector_search.replacement import Replacement
from services.vector_search.servicer import VectorSearchServicer

TEXTS = {
    "wing": "The wing of an aircraft in the slipstream of a propeller",
    "boundary": "Boundary layers on a wing: a wing's drag and a wing's lift",
    "heat": "Heat transfer in a laminar boundary layer",
    "dog": "A dog sleeps",
    "empty": "",
}
SHARED = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


@pytest.fixture
def service(replicas: list[VectorSearchServicer]) -> VectorSearchServicer:
    identity.enter(identity.Call("acme", "", ""))
    return replicas[0]


async def created(service: VectorSearchServicer, **more: Any) -> str:
    name = "docs-" + secrets.token_hex(4)
    collection = pb.Collection(name=name, dimension=2, **more)
    await service.CreateCollection(pb.CreateCollectionRequest(collection=collection), None)
    return name


async def upsert(service: VectorSearchServicer, name: str, texts: dict[str, str], **metadata: Any) -> None:
    entities = [pb.Entity(id=key, vector=[1, i / 10], text=text) for i, (key, text) in enumerate(texts.items())]
    for entity in entities:
        entity.metadata.update(metadata)
    await service.Upsert(pb.UpsertRequest(collection=name, entities=entities), None)


@pytest.fixture
async def docs(service: VectorSearchServicer) -> AsyncIterator[str]:
    name = await created(service)
    await upsert(service, name, TEXTS)
    yield name
    await service.DeleteCollection(pb.DeleteCollectionRequest(collection=name), None)


async def search(service: VectorSearchServicer, name: str, *texts: str, **more: Any) -> list[dict[str, float]]:
    """For each text the scores by id, in order."""
    more = {"mode": pb.SEARCH_MODE_BM25, **more}
    answer = await service.Search(pb.SearchRequest(collection=name, texts=texts, **more), None)
    assert all(hit.score == hit.bm25_score for result in answer.results for hit in result.hits)
    return [{hit.entity.id: hit.score for hit in result.hits} for result in answer.results]


def expected(texts: dict[str, str], query: str, k1: float = 1.2, b: float = 0.75) -> dict[str, float]:
    counts = {key: Counter(words("english", text)) for key, text in texts.items()}
    mean = sum(map(Counter.total, counts.values())) / len(texts)
    found = dict.fromkeys(texts, 0.0)
    for word in set(words("english", query)):
        having = sum(word in one for one in counts.values())
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for key, one in counts.items():
            found[key] += idf * one[word] * (k1 + 1) / (one[word] + k1 * (1 - b + b * one.total() / mean))
    return {key: score for key, score in sorted(found.items(), key=lambda item: (-item[1], item[0])) if score > 0}


def same(found: dict[str, float], wanted: dict[str, float]) -> bool:
    return found.keys() == wanted.keys() and all(math.isclose(found[k], wanted[k], rel_tol=1e-5) for k in wanted)


async def test_hits_share_a_word_and_have_the_scores_of_the_formula(service: VectorSearchServicer, docs: str) -> None:
    (found,) = await search(service, docs, "Wings, boundary layers?")
    assert same(found, expected(TEXTS, "Wings, boundary layers?"))
    assert list(found) == ["boundary", "heat", "wing"]


async def test_many_queries_one_of_them_without_words(service: VectorSearchServicer, docs: str) -> None:
    assert [list(one) for one in await search(service, docs, "dogs", "?!", "zebra", "heat")] == [
        ["dog"],
        [],
        [],
        ["heat"],
    ]


async def test_a_limit_and_a_threshold(service: VectorSearchServicer, docs: str) -> None:
    (found,) = await search(service, docs, "wing drag", limit=1)
    assert list(found) == ["boundary"]
    assert await search(service, docs, "wing drag", score_threshold=found["boundary"]) == [
        {"boundary": found["boundary"]}
    ]


async def test_scores_are_those_of_all_rows_wherever_they_are(
    service: VectorSearchServicer, docs: str, address: str
) -> None:
    """In files, in memory, replaced, deleted; and a filter leaves them as they are."""
    client, draw = MilvusClient(address), random.Random(3)
    physical = (await service.store.shape("acme", docs)).physical
    texts = dict(TEXTS)
    for turn in range(6):
        fresh = {f"r{draw.randrange(40)}": " ".join(draw.choices(SHARED, k=draw.randint(1, 30))) for _ in range(15)}
        await upsert(service, docs, fresh, turn=turn)
        texts |= fresh
        if turn % 2:
            client.flush(physical)
        gone = draw.sample(sorted(texts), 3)
        await service.Delete(pb.DeleteRequest(collection=docs, ids=gone), None)
        for one in gone:
            del texts[one]
        (found,) = await search(service, docs, "alpha zeta wing", limit=100)
        assert same(found, expected(texts, "alpha zeta wing"))
    assert await search(service, docs, "alpha zeta wing", limit=100) == [found]  # from what is known
    last = {one: score for one, score in found.items() if one in fresh}
    (few,) = await search(service, docs, "alpha zeta wing", limit=100, filter="turn = 5")
    assert few == last
    client.close()


async def test_equal_scores_are_in_the_order_of_ids_and_none_is_lost_at_the_limit(
    service: VectorSearchServicer,
) -> None:
    name = await created(service)
    await upsert(service, name, {f"{i:03}": "same words" for i in random.Random(1).sample(range(200), 200)})
    assert list((await search(service, name, "words", limit=5))[0]) == ["000", "001", "002", "003", "004"]


async def test_both_partial_scores(service: VectorSearchServicer, docs: str) -> None:
    request = pb.SearchRequest(
        collection=docs, vectors=[pb.QueryVector(values=[1, 0.3])], texts=["heat"], mode=pb.SEARCH_MODE_HYBRID, limit=2
    )
    answer = await service.Search(request, None)
    first, second = answer.results[0].hits
    assert (first.entity.id, first.entity.text) == ("heat", TEXTS["heat"])
    assert math.isclose(first.bm25_score, expected(TEXTS, "heat")["heat"], rel_tol=1e-5)
    assert math.isclose(second.dense_score, 1, rel_tol=1e-6)
    assert (second.entity.id, second.HasField("bm25_score")) == ("dog", False)
    assert math.isclose(first.score, 1 / 61 + 1 / 63, rel_tol=1e-6)
    assert math.isclose(second.score, 1 / 61, rel_tol=1e-6)
    request.score_threshold = 1 / 60
    assert [hit.entity.id for hit in (await service.Search(request, None)).results[0].hits] == ["heat"]
    request.fusion.weighted.dense, request.fusion.weighted.bm25 = 1, 0
    request.ClearField("score_threshold")
    assert (await service.Search(request, None)).results[0].hits[0].entity.id == "dog"
    request.include_vectors = True
    assert len((await service.Search(request, None)).results[0].hits[0].entity.vector) == 2


@pytest.mark.parametrize("metric", [pb.METRIC_COSINE, pb.METRIC_INNER_PRODUCT, pb.METRIC_EUCLIDEAN])
async def test_each_hit_has_both_scores_whichever_search_found_it(service: VectorSearchServicer, metric: Any) -> None:
    """As each search alone gives them; so far down that only one of the searches has a hit among its first."""
    name, draw = await created(service, metric=metric), random.Random(2)
    for _ in range(3):
        some = {f"{draw.randrange(1000):03}": " ".join(draw.choices(SHARED, k=draw.randint(1, 9))) for _ in range(100)}
        entities = [pb.Entity(id=i, vector=[draw.gauss(0, 1), draw.gauss(0, 1)], text=text) for i, text in some.items()]
        await service.Upsert(pb.UpsertRequest(collection=name, entities=entities), None)
    query = {"vectors": [pb.QueryVector(values=[1, 0.3]), pb.QueryVector(values=[0, -2])]}
    texts = ["alpha beta", "zeta"]
    alone = await search(service, name, *texts, limit=1000)
    near = (await service.Search(pb.SearchRequest(collection=name, limit=1000, **query), None)).results
    for fusion in (pb.Fusion(), pb.Fusion(weighted=pb.WeightedFusion(dense=0.5, bm25=0.5))):
        more = {"texts": texts, "fusion": fusion, "limit": 80}
        request = pb.SearchRequest(collection=name, mode=pb.SEARCH_MODE_HYBRID, **query, **more)
        for words_, vectors, result in zip(alone, near, (await service.Search(request, None)).results, strict=True):
            by_vectors = {hit.entity.id: hit.score for hit in vectors.hits}
            assert len(result.hits) == 80
            for hit in result.hits:
                assert hit.dense_score == pytest.approx(by_vectors[hit.entity.id], rel=1e-4, abs=1e-5)
                assert hit.HasField("bm25_score") == (hit.entity.id in words_)
                assert hit.bm25_score == pytest.approx(words_.get(hit.entity.id, 0.0), rel=1e-5)


async def test_a_hybrid_search_of_distances(service: VectorSearchServicer) -> None:
    name = await created(service, metric=pb.METRIC_EUCLIDEAN)
    await upsert(service, name, TEXTS)
    request = pb.SearchRequest(
        collection=name, vectors=[pb.QueryVector(values=[1, 0])], texts=["dog"], mode=pb.SEARCH_MODE_HYBRID
    )
    hits = (await service.Search(request, None)).results[0].hits
    assert [hit.entity.id for hit in hits] == ["dog", "wing", "boundary", "heat", "empty"]


async def test_without_words_a_hybrid_search_goes_by_vectors(service: VectorSearchServicer, docs: str) -> None:
    request = pb.SearchRequest(
        collection=docs, vectors=[pb.QueryVector(values=[1, 0])], texts=["…"], mode=pb.SEARCH_MODE_HYBRID, limit=3
    )
    assert [h.entity.id for h in (await service.Search(request, None)).results[0].hits] == ["wing", "boundary", "heat"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"mode": pb.SEARCH_MODE_BM25}, "texts"),
        ({"mode": pb.SEARCH_MODE_BM25, "texts": ["a"], "vectors": [pb.QueryVector(values=[1, 0])]}, "vectors"),
        ({"mode": pb.SEARCH_MODE_BM25, "texts": ["a"] * 65}, "texts"),
        ({"mode": pb.SEARCH_MODE_BM25, "texts": ["ok", "ä" * 32_768]}, "texts[1]"),
        ({"mode": pb.SEARCH_MODE_BM25, "texts": ["a"], "fusion": pb.Fusion()}, "fusion"),
        ({"mode": pb.SEARCH_MODE_HYBRID, "texts": ["a"]}, "vectors"),
        ({"mode": pb.SEARCH_MODE_HYBRID, "vectors": [pb.QueryVector(values=[1, 0])]}, "texts"),
        ({"mode": pb.SEARCH_MODE_HYBRID, "vectors": [pb.QueryVector(values=[1, 0, 0])], "texts": ["a"]}, "vectors[0].values"),
        ({"mode": 9, "vectors": [pb.QueryVector(values=[1, 0])]}, "mode"),
        ({"vectors": [pb.QueryVector(values=[1, 0])], "texts": ["a"]}, "texts"),
    ],
)  # fmt: skip
async def test_a_bad_request_names_its_field(service: VectorSearchServicer, docs: str, more: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        await service.Search(pb.SearchRequest(collection=docs, **more), None)
    assert field in [violation.field for violation in failure.value.violations]


@pytest.mark.parametrize(
    ("fusion", "field"),
    [
        (pb.Fusion(reciprocal_rank=pb.ReciprocalRankFusion(k=-1)), "fusion.reciprocal_rank.k"),
        (pb.Fusion(reciprocal_rank=pb.ReciprocalRankFusion(k=20_000)), "fusion.reciprocal_rank.k"),
        (pb.Fusion(weighted=pb.WeightedFusion(dense=math.nan, bm25=1)), "fusion.weighted.dense"),
        (pb.Fusion(weighted=pb.WeightedFusion(dense=1, bm25=1.5)), "fusion.weighted.bm25"),
        (pb.Fusion(weighted=pb.WeightedFusion()), "fusion.weighted"),
    ],
)
async def test_a_bad_fusion_names_its_field(
    service: VectorSearchServicer, docs: str, fusion: pb.Fusion, field: str
) -> None:
    request = pb.SearchRequest(
        collection=docs, mode=pb.SEARCH_MODE_HYBRID, vectors=[pb.QueryVector(values=[1, 0])], texts=["a"], fusion=fusion
    )
    with pytest.raises(InvalidArgument) as failure:
        await service.Search(request, None)
    assert [violation.field for violation in failure.value.violations] == [field]


async def test_an_analyzer_is_the_collections_own(service: VectorSearchServicer) -> None:
    texts = {"one": "Häuser", "two": "Haus"}
    german = await created(service, analyzer="german")
    plain = await created(service, analyzer="standard")
    for name in (german, plain):
        await upsert(service, name, texts)
    assert [set(one) for one in await search(service, german, "haus")] == [{"one", "two"}]
    assert [set(one) for one in await search(service, plain, "haus")] == [{"two"}]
    described = await service.GetCollection(pb.GetCollectionRequest(collection=german), None)
    assert described.collection.analyzer == "german"
    with pytest.raises(InvalidArgument) as failure:
        await created(service, analyzer="klingon")
    assert [violation.field for violation in failure.value.violations] == ["collection.analyzer"]


async def test_words_come_with_a_replacement_and_a_new_analyzer_with_another(
    service: VectorSearchServicer, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "SETTLE_SECONDS", 0.0)

    async def replaced(analyzer: str = "") -> int:
        work = Replacement(service.store, "acme", old, "embedder@1", 2, analyzer)
        if await work.begin():
            async with aclosing(work.missing()) as batches:
                async for batch in batches:
                    await work.put(batch, [[1, 0]] * len(batch))
            await work.end()
        await work.leave()
        return work.taken

    assert await replaced() == len(TEXTS)  # the vectors are of that model already, but there are no words
    assert [set(one) for one in await search(service, old, "sleeping dogs")] == [{"dog"}]
    assert await replaced() == await replaced("english") == 0
    assert await replaced("standard") == len(TEXTS)
    assert await search(service, old, "sleeping dogs") == [{}]
    assert await replaced() == 0  # it keeps the one that it has
    described = await service.GetCollection(pb.GetCollectionRequest(collection=old), None)
    assert (described.collection.analyzer, described.collection.entity_count) == ("standard", len(TEXTS))


# Collections of before


@pytest.fixture
async def old(service: VectorSearchServicer, address: str) -> str:
    """As before there was BM25 search."""
    name, client = "docs-" + secrets.token_hex(4), MilvusClient(address)
    physical = service.store.physical("acme", name)
    generations.make(client, physical, 2, {generations.METRIC: "COSINE", generations.REVISION: "embedder@1"})
    found = generations.properties_of(client, physical)
    assert found is not None
    generations.ready(client, found[0])
    client.close()
    await upsert(service, name, TEXTS)
    return name


async def test_an_older_collection_goes_on_and_words_are_refused(service: VectorSearchServicer, old: str) -> None:
    request = pb.SearchRequest(collection=old, vectors=[pb.QueryVector(values=[1, 0])], limit=1)
    assert [hit.entity.id for hit in (await service.Search(request, None)).results[0].hits] == ["wing"]
    described = await service.GetCollection(pb.GetCollectionRequest(collection=old), None)
    assert described.collection.analyzer == ""
    for more in ({"mode": pb.SEARCH_MODE_HYBRID, "vectors": request.vectors}, {"mode": pb.SEARCH_MODE_BM25}):
        with pytest.raises(FailedPrecondition) as failure:
            await search(service, old, "dog", **more)
        assert (failure.value.reason, failure.value.metadata["field"]) == ("BM25_NOT_AVAILABLE", "collection")
        assert "Reindex" in failure.value.message


async def test_a_milvus_without_bm25_makes_collections_without(
    service: VectorSearchServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MilvusClient, "get_server_version", lambda *_, **__: "v2.4.17")
    name = await created(service)
    await upsert(service, name, TEXTS)
    with pytest.raises(FailedPrecondition) as failure:
        await search(service, name, "dog")
    assert failure.value.reason == "BM25_NOT_AVAILABLE"
    with pytest.raises(FailedPrecondition) as failure:
        await created(service, analyzer="german")
    assert failure.value.reason == "BM25_NOT_AVAILABLE"
    assert "v2.4.17" in failure.value.message
