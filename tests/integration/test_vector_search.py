"""VectorSearchService against a real Milvus Lite server."""

from __future__ import annotations

import math

import pytest
from genmesh import Client
from genmesh.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from genmesh.v1 import vector_search_pb2 as pb


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


def test_a_filter_value_may_hold_anything(client: Client, filled: str) -> None:
    tricky = 'quote " backslash \\ and id > "" 日本'
    client.vector_search.Upsert({"collection": filled, "entities": [entity(1, note=tricky)]})
    import json

    assert found(search(client, filled, filter=f"note = {json.dumps(tricky, ensure_ascii=False)}")) == ["e01"]


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
    seen, token = [], ""
    while True:
        page = client.vector_search.Get({"collection": filled, "page_size": 7, "page_token": token})
        seen += [e.id for e in page.entities]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"e{i:02}" for i in range(20)]


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


@pytest.mark.parametrize("mode", ["SEARCH_MODE_BM25", "SEARCH_MODE_HYBRID"])
def test_modes_that_are_not_there_yet_say_so(client: Client, filled: str, mode: str) -> None:
    with pytest.raises(Unimplemented) as failure:
        search(client, filled, mode=mode)
    assert failure.value.reason == "SEARCH_MODE_NOT_AVAILABLE"
