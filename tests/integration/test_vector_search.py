"""VectorSearchService against a real Milvus Lite server."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Sequence

import pytest
from genmesh import Client
from genmesh.errors import AlreadyExists, InvalidArgument, NotFound
from genmesh.v1 import vector_search_pb2 as pb
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.runtime.metrics import VectorSearch
from services.vector_search.store import Store


def entity(i: int, **metadata: object) -> dict:
    angle = i * math.pi / 20
    return {
        "id": f"e{i:02}",
        "vector": [math.cos(angle), math.sin(angle), 0.0],
        "text": f"entity {i}",
        "metadata": {"n": i, "even": i % 2 == 0, "kind": "ab"[i % 2], **metadata},
    }


@pytest.fixture
def filled(client: Client, collection: str) -> str:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 3, "description": "a fan"}})
    client.vector_search.Upsert({"collection": collection, "entities": [entity(i) for i in range(20)]})
    return collection


def found(response: pb.SearchResponse, query: int = 0) -> list[str]:
    return [hit.entity.id for hit in response.results[query].hits]


def search(client: Client, name: str, **more: object) -> pb.SearchResponse:
    return client.vector_search.Search({"collection": name, "vectors": [{"values": [1, 0, 0]}], **more})


def test_a_collection_lives_and_dies(client: Client, filled: str) -> None:
    info = client.vector_search.GetCollection({"collection": filled}).collection
    assert (info.dimension, info.metric, info.description, info.entity_count) == (3, pb.METRIC_COSINE, "a fan", 20)
    assert filled in [c.name for c in client.vector_search.ListCollections({}).collections]
    with pytest.raises(AlreadyExists) as failure:
        client.vector_search.CreateCollection({"collection": {"name": filled, "dimension": 3}})
    assert failure.value.reason == "COLLECTION_EXISTS"
    client.vector_search.DeleteCollection({"collection": filled})
    with pytest.raises(NotFound) as gone:
        search(client, filled)
    assert gone.value.reason == "COLLECTION_NOT_FOUND"


def test_search_finds_the_nearest_first(client: Client, filled: str) -> None:
    response = search(client, filled, limit=3)
    assert found(response) == ["e00", "e01", "e02"]
    hit = response.results[0].hits[1]
    assert math.isclose(hit.score, math.cos(math.pi / 20), abs_tol=1e-4)
    assert hit.entity.text == "entity 1"
    assert hit.entity.metadata["kind"] == "b"
    assert not hit.entity.vector
    assert len(search(client, filled, limit=1, include_vectors=True).results[0].hits[0].entity.vector) == 3


def test_search_takes_many_queries_and_a_threshold(client: Client, filled: str) -> None:
    response = client.vector_search.Search(
        {"collection": filled, "vectors": [{"values": [1, 0, 0]}, {"values": [0, 1, 0]}], "limit": 1}
    )
    assert [found(response, 0), found(response, 1)] == [["e00"], ["e10"]]
    assert found(search(client, filled, score_threshold=0.95)) == ["e00", "e01", "e02"]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("n = 7", ["e07"]),
        ("n >= 17 AND even = true", ["e18"]),
        ('kind = "b" AND n < 4', ["e01", "e03"]),
        ("n IN (2, 5)", ["e02", "e05"]),
        ("NOT (n > 1 OR even = false)", ["e00"]),
        ("n < 2 or n = 19", ["e00", "e01", "e19"]),
        ('missing = "x"', []),
        ('missing != "x"', []),
    ],
)
def test_filters(client: Client, filled: str, where: str, ids: list[str]) -> None:
    assert sorted(found(search(client, filled, filter=where, limit=20))) == ids
    assert [e.id for e in client.vector_search.Get({"collection": filled, "filter": where}).entities] == ids


@pytest.mark.parametrize(
    "where", ["n =", "n = = 3", "(n = 1", "n = 1 OR", 'n = "open', "1 = n", "n LIKE 3", "n = 1; drop"]
)
def test_a_filter_that_does_not_parse(client: Client, filled: str, where: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        search(client, filled, filter=where)
    assert failure.value.reason == "INVALID_FILTER"
    assert failure.value.field_violations[0].field == "filter"


def test_upsert_replaces_and_delete_deletes(client: Client, filled: str) -> None:
    client.vector_search.Upsert({"collection": filled, "entities": [entity(3) | {"text": "new", "vector": [0, 0, 1]}]})
    got = client.vector_search.Get({"collection": filled, "ids": ["e03", "nope", "e00"], "include_vectors": True})
    assert [e.id for e in got.entities] == ["e03", "e00"]
    assert got.entities[0].text == "new"
    assert list(got.entities[0].vector) == [0, 0, 1]
    assert client.vector_search.Delete({"collection": filled, "ids": ["e03", "nope"]}).deleted_count == 1
    assert client.vector_search.Delete({"collection": filled, "filter": "n >= 10"}).deleted_count == 10
    assert client.vector_search.GetCollection({"collection": filled}).collection.entity_count == 9


def test_pages_are_whole_and_without_repeats(client: Client, filled: str) -> None:
    assert pages(client, filled, 7) == [f"e{i:02}" for i in range(20)]


# Texts that would end a string of an expression, or begin something else in one.
TRICKY = [
    "it's", 'say "no"', "back\\slash", "\\", "'", '"', "two\nlines", "\r\n", "\ttab", "\x00", "\x7f\x85\u2028",
    "x'] or id not in ['", 'x"] or id not in ["', "x\\'] or id != '", '") or (id > "', "%", "{a}", "日本語", "🜂 e\u0301", " a ",
]  # fmt: skip
texts = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def scratch(running) -> Iterator[str]:
    """A collection that examples of one test fill and empty."""
    name = "scratch-" + secrets.token_hex(4)
    with running.client() as client:
        client.vector_search.CreateCollection({"collection": {"name": name, "dimension": 2}})
        yield name
        client.vector_search.DeleteCollection({"collection": name})


def pages(
    client: Client, name: str, size: int, where: str = "", prefix: str = "", prefixes: Sequence[str] = ()
) -> list[str]:
    """The ids of all pages, as they come."""
    seen: list[str] = []
    token = ""
    while True:
        asked = {
            "collection": name,
            "page_size": size,
            "page_token": token,
            "filter": where,
            "id_prefix": prefix,
            "id_prefixes": prefixes,
        }
        page = client.vector_search.Get(asked)
        seen += [e.id for e in page.entities]
        token = page.next_page_token
        if not token:
            return seen


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=2, max_size=8, unique=True))
@example(TRICKY)
def test_what_was_stored_is_returned_and_nothing_else_changes(client: Client, scratch: str, ids: list[str]) -> None:
    rows = [{"id": i, "vector": [1, n], "text": i, "metadata": {"note": i, "n": n}} for n, i in enumerate(ids)]
    client.vector_search.Upsert({"collection": scratch, "entities": rows})
    got = client.vector_search.Get({"collection": scratch, "ids": [*ids, ids[0] + "#absent"], "include_vectors": True})
    assert [(e.id, e.text, e.metadata["note"], list(e.vector)) for e in got.entities] == [
        (i, i, i, [1, n]) for n, i in enumerate(ids)
    ]
    assert pages(client, scratch, 3) == sorted(ids)

    def where(text: str) -> str:
        return f"note = {json.dumps(text, ensure_ascii=False)}"

    for text in ids:
        assert pages(client, scratch, 3, where(text)) == [text]
        for prefix in (text, text[:1], text[:-1] + "\U0010ffff"):
            assert pages(client, scratch, 2, "", prefix) == sorted(i for i in ids if i.startswith(prefix))
        assert pages(client, scratch, 3, where(text), text[:1]) == [text]
        assert pages(client, scratch, 3, where(text), text + "#") == []
    for prefixes in (ids, ids[1:], [ids[0], ids[0][:1]], [ids[0] + "#", ids[1]]):
        there = sorted(i for i in ids if i.startswith(tuple(prefixes)))
        assert pages(client, scratch, 2, prefixes=prefixes) == there
        assert pages(client, scratch, 2, "n >= 1", prefixes=prefixes) == [i for i in there if i != ids[0]]
    client.vector_search.Upsert({"collection": scratch, "entities": [rows[0] | {"text": "anew"}]})
    assert (
        client.vector_search.Delete({"collection": scratch, "ids": [ids[-1], ids[-1] + "#absent"]}).deleted_count == 1
    )
    assert client.vector_search.Delete({"collection": scratch, "filter": where(ids[0] + "#absent")}).deleted_count == 0
    left = client.vector_search.Get({"collection": scratch, "ids": ids}).entities
    assert [(e.id, e.text) for e in left] == [(ids[0], "anew"), *((i, i) for i in ids[1:-1])]
    assert client.vector_search.Delete({"collection": scratch, "filter": where(ids[0])}).deleted_count == 1
    assert pages(client, scratch, 3) == sorted(ids[1:-1])
    assert client.vector_search.Delete({"collection": scratch, "filter": "n >= 0"}).deleted_count == len(ids) - 2


def test_an_id_selects_no_other(client: Client, filled: str) -> None:
    for asked in ("x'] or id not in ['", 'x"] or id not in ["', "e00' or id != '"):
        assert not client.vector_search.Get({"collection": filled, "ids": [asked]}).entities
        assert client.vector_search.Delete({"collection": filled, "ids": [asked]}).deleted_count == 0
    assert client.vector_search.GetCollection({"collection": filled}).collection.entity_count == 20


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"ids": ["a"], "id_prefix": "a"}, "id_prefix"),
        ({"id_prefix": "é" * 129}, "id_prefix"),
        ({"id_prefixes": ["a", "é" * 129]}, "id_prefixes[1]"),
        ({"id_prefixes": ["a"] * 101}, "id_prefixes"),
        ({"id_prefixes": ["a"], "id_prefix": "a"}, "id_prefixes"),
        ({"id_prefixes": ["a"], "ids": ["a"]}, "id_prefixes"),
        ({"page_token": "!"}, "page_token"),
    ],
)
def test_a_bad_page_names_its_field(client: Client, filled: str, request_: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Get({"collection": filled} | request_)
    assert failure.value.field_violations[0].field == field


def test_pages_of_more_rows_than_one_answer_holds(client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    ids = [f"{i:06}" for i in range(20_000)]
    for start in range(20_000, 0, -1000):
        batch = [{"id": i, "vector": [1, 0], "metadata": {"odd": int(i) % 2}} for i in ids[start - 1000 : start]]
        client.vector_search.Upsert({"collection": collection, "entities": batch[::-1]})
    assert pages(client, collection, 1000) == ids
    assert pages(client, collection, 1000, "odd = 1") == ids[1::2]
    assert pages(client, collection, 7, "", "0120") == ids[12_000:12_100]
    assert pages(client, collection, 7, prefixes=["0121", "0001", "9"]) == ids[100:200] + ids[12_100:12_200]
    assert client.vector_search.Delete({"collection": collection, "filter": "odd = 1"}).deleted_count == 10_000
    assert pages(client, collection, 1000) == ids[::2]


def test_an_answer_is_bounded(client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    ids = [f"{i:04}" for i in range(600)]
    for start in range(0, len(ids), 100):
        rows = [
            {"id": i, "vector": [1, 0], "text": i * 15_000, "metadata": {"n": int(i)}} for i in ids[start : start + 100]
        ]
        client.vector_search.Upsert({"collection": collection, "entities": rows})
    page = client.vector_search.Get({"collection": collection, "page_size": 1000})
    assert 200 < len(page.entities) < 300
    assert page.ByteSize() < 2**24 + 2**17
    assert pages(client, collection, 1000) == ids
    got = client.vector_search.Get({"collection": collection, "ids": ids[:200]})
    assert [(e.id, len(e.text)) for e in got.entities] == [(i, 60_000) for i in ids[:200]]
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Get({"collection": collection, "ids": ids[:300]})
    assert (failure.value.reason, failure.value.field_violations[0].field) == ("ANSWER_TOO_LARGE", "ids")
    found = client.vector_search.Search({"collection": collection, "vectors": [{"values": [1, 0]}], "limit": 200})
    assert all(len(hit.entity.text) == 60_000 for hit in found.results[0].hits)
    assert len(found.results[0].hits) == 200
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Search({"collection": collection, "vectors": [{"values": [1, 0]}] * 3, "limit": 200})
    assert (failure.value.reason, failure.value.field_violations[0].field) == ("ANSWER_TOO_LARGE", "limit")
    few = {"collection": collection, "vectors": [{"values": [1, 0]}] * 3, "limit": 200, "filter": "n < 50"}
    for result in client.vector_search.Search(few).results:
        assert sorted((hit.entity.id, len(hit.entity.text)) for hit in result.hits) == [(i, 60_000) for i in ids[:50]]


async def test_a_collection_that_another_replica_replaced(running, client: Client, collection: str) -> None:
    other = Store(
        f"http://127.0.0.1:{running.cluster.ports['milvus']}", "", VectorSearch("vector_search", CollectorRegistry()), 1
    )

    async def replace(dimension: int) -> None:
        await other.drop("alpha", collection)
        await other.create("alpha", collection, dimension, "COSINE", "")

    def upsert(*vector: float) -> int:
        entity = {"id": "a", "vector": vector}
        return client.vector_search.Upsert({"collection": collection, "entities": [entity]}).upserted_count

    def find(*vector: float) -> list[str]:
        return found(client.vector_search.Search({"collection": collection, "vectors": [{"values": vector}]}))

    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    assert upsert(1, 0) == 1
    await replace(3)
    assert upsert(1, 0, 0) == 1
    assert find(1, 0, 0) == ["a"]
    await replace(2)
    for call, field in ((upsert, "entities[0].vector"), (find, "vectors[0].values")):
        with pytest.raises(InvalidArgument) as failure:
            call(1, 0, 0)
        assert failure.value.field_violations[0].field == field
    assert upsert(1, 0) == 1
    await replace(3)
    await other.upsert("alpha", collection, [{"id": "a", "vector": [1, 0, 0], "text": "", "metadata": {}}], "")
    with pytest.raises(InvalidArgument):
        find(1, 0)
    await other.close()


def test_upsert_stream(client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 3}})
    batches = ({"request": {"collection": collection, "entities": [entity(i), entity(i + 10)]}} for i in range(3))
    assert [r.total_count for r in client.vector_search.UpsertStream(batches)] == [2, 4, 6]


def test_euclidean_and_inner_product(client: Client, collection: str) -> None:
    client.vector_search.CreateCollection(
        {"collection": {"name": collection, "dimension": 2, "metric": "METRIC_EUCLIDEAN"}}
    )
    client.vector_search.Upsert({"collection": collection, "entities": [{"id": "a", "vector": [3, 4]}]})
    response = client.vector_search.Search({"collection": collection, "vectors": [{"values": [0, 0]}]})
    assert math.isclose(response.results[0].hits[0].score, 25, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        ([0, 0], "has the length 0; a cosine needs at least 1e-18"),
        ([1e-30, 0], "has the length 1e-30; a cosine needs at least 1e-18"),
        ([1e20, 0], "has the length 1e+20; at most 1e+18 is allowed"),
        ([3e38, 3e38], "has the length 4.243e+38; at most 1e+18 is allowed"),
        ([], "has 0 values; the collection's vectors have 2"),
    ],
)
def test_vectors_whose_scores_would_mean_nothing(
    client: Client, collection: str, vector: list[float], fault: str
) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    entities = [{"id": "good", "vector": [1e17, 0]}, {"id": "bad", "vector": vector}]
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Upsert({"collection": collection, "entities": entities})
    assert [(v.field, v.description) for v in failure.value.field_violations] == [("entities[1].vector", fault)]
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Search({"collection": collection, "vectors": [{"values": vector}]})
    assert [v.field for v in failure.value.field_violations] == ["vectors[0].values"]
    client.vector_search.Upsert(
        {"collection": collection, "entities": [entities[0], {"id": "small", "vector": [0, 1e-17]}]}
    )
    hits = (
        client.vector_search.Search({"collection": collection, "vectors": [{"values": [1e-17, 1e-17]}]}).results[0].hits
    )
    assert {hit.entity.id: pytest.approx(hit.score, abs=1e-3) for hit in hits} == {"good": 0.5**0.5, "small": 0.5**0.5}


def test_a_value_that_is_no_number(running, client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    for value in (math.nan, math.inf):
        request = pb.UpsertRequest(collection=collection, entities=[pb.Entity(id="x", vector=[0, value])])
        with pytest.raises(InvalidArgument) as failure:
            client.vector_search.Upsert(request)
        (violation,) = failure.value.field_violations
        assert (violation.field, violation.description) == (
            "entities[0].vector[1]",
            f"is {value}; values must be finite",
        )


def test_tenants_do_not_see_each_other(running, client: Client, filled: str) -> None:
    with running.client(running.beta) as other:
        assert filled not in [c.name for c in other.vector_search.ListCollections({}).collections]
        with pytest.raises(NotFound):
            other.vector_search.Get({"collection": filled})
        other.vector_search.CreateCollection({"collection": {"name": filled, "dimension": 2}})
        assert other.vector_search.GetCollection({"collection": filled}).collection.entity_count == 0
        other.vector_search.DeleteCollection({"collection": filled})
    assert client.vector_search.GetCollection({"collection": filled}).collection.entity_count == 20


@pytest.mark.parametrize(
    ("entities", "field"),
    [
        ([], "entities"),
        ([{"id": "a", "vector": [1, 2]}], "entities[0].vector"),
        ([{"id": "a", "vector": [1, 2, 3]}, {"id": "b", "vector": [1, math.nan, 3]}], "entities[1].vector[1]"),
        ([{"id": "a", "vector": [1, 2, math.inf]}], "entities[0].vector[2]"),
        ([{"id": "", "vector": [1, 2, 3]}], "entities[0].id"),
        ([{"id": "a", "vector": [1, 2, 3]}] * 2, "entities[1].id"),
        ([{"id": "a", "vector": [1, 2, 3], "text": "x" * 65_536}], "entities[0].text"),
    ],
)
def test_a_bad_upsert_stores_nothing(client: Client, filled: str, entities: list[dict], field: str) -> None:
    request = pb.UpsertRequest(collection=filled, entities=[pb.Entity(**e) for e in entities])
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.Upsert(request)
    assert field in [v.field for v in failure.value.field_violations]
    assert client.vector_search.GetCollection({"collection": filled}).collection.entity_count == 20
    assert not client.vector_search.Get({"collection": filled, "ids": ["a"]}).entities


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"vectors": []}, "vectors"),
        ({"vectors": [{"values": [1, 2]}]}, "vectors[0].values"),
        ({"texts": ["x"]}, "texts"),
    ],
)
def test_a_bad_search_names_its_field(client: Client, filled: str, more: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        search(client, filled, **more)
    assert field in [v.field for v in failure.value.field_violations]


@pytest.mark.parametrize("name", ["", "-x", "a b", "a" * 65, "ünicode", "../x"])
def test_a_bad_name(client: Client, name: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.CreateCollection({"collection": {"name": name, "dimension": 2}})
    assert failure.value.field_violations[0].field == "collection.name"


@pytest.mark.parametrize("dimension", [0, -3, 32_769])
def test_a_bad_dimension(client: Client, collection: str, dimension: int) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": dimension}})
    assert failure.value.field_violations[0].field == "collection.dimension"


def test_words_are_searched_as_vectors_are(client: Client, filled: str) -> None:
    """With filters, limits and thresholds; and what a text stands under counts, too."""
    dog = entity(20) | {"text": "A dog sleeps", "context": "Chapter of animals"}
    client.vector_search.Upsert({"collection": filled, "entities": [dog]})

    def words(text: str, **more: object) -> pb.SearchResponse:
        request = {"collection": filled, "texts": [text], "mode": "SEARCH_MODE_BM25", **more}
        return client.vector_search.Search(request)

    assert found(words("dogs")) == found(words("ANIMAL?")) == ["e20"]
    assert words("dogs").results[0].hits[0].entity.context == "Chapter of animals"
    assert found(words("entity", limit=4)) == ["e00", "e01", "e02", "e03"]
    assert found(words("entity", filter="n > 17", limit=4)) == ["e18", "e19"]
    best = words("entity 7", limit=2).results[0].hits
    assert [hit.entity.id for hit in best] == ["e07", "e00"]
    assert found(words("entity 7", score_threshold=best[0].score)) == ["e07"]
    both = search(client, filled, texts=["dogs"], mode="SEARCH_MODE_HYBRID", limit=2)
    assert set(found(both)) == {"e00", "e20"}
    assert {hit.HasField("bm25_score") for hit in both.results[0].hits} == {True, False}
    client.vector_search.Delete({"collection": filled, "ids": ["e20"]})
    assert found(words("dogs")) == []
