"""Requests to the service, on the built-in store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from genmesh.v1 import vector_search_pb2 as pb

from services.runtime import identity
from services.runtime.errors import FailedPrecondition, GenmeshError, InvalidArgument, NotFound
from services.vector_search.servicer import VectorSearchServicer, place_of, token_of


@pytest.fixture
def service(replicas: list[VectorSearchServicer]) -> VectorSearchServicer:
    identity.enter(identity.Call("acme", "", ""))
    return replicas[0]


async def created(service: VectorSearchServicer, name: str = "", metric: int = 0) -> str:
    name = name or "docs-" + secrets.token_hex(4)
    collection = pb.Collection(name=name, dimension=2, metric=metric)  # type: ignore[arg-type]
    await service.CreateCollection(pb.CreateCollectionRequest(collection=collection), None)
    return name


async def upsert(service: VectorSearchServicer, name: str, rows: dict[str, Any], revision: str = "") -> int:
    """``rows``: metadata by id."""
    entities = [pb.Entity(id=key, vector=[1, 0]) for key in rows]
    for entity, metadata in zip(entities, rows.values(), strict=True):
        entity.metadata.update(metadata)
    request = pb.UpsertRequest(collection=name, entities=entities, model_revision=revision)
    return (await service.Upsert(request, None)).upserted_count


async def get(service: VectorSearchServicer, name: str, **more: Any) -> list[str]:
    return [entity.id for entity in (await service.Get(pb.GetRequest(collection=name, **more), None)).entities]


async def revision_of(service: VectorSearchServicer, name: str) -> str:
    request = pb.GetCollectionRequest(collection=name)
    return (await service.GetCollection(request, None)).collection.model_revision


async def fault(call: Any) -> tuple[str, str]:
    """The field at fault, and the description."""
    with pytest.raises(InvalidArgument) as caught:
        await call
    (violation,) = caught.value.violations
    return violation.field, violation.description


# Models


@pytest.mark.parametrize(("count", "seconds"), [(1, 0.01), (2, 2.0)], ids=["one replica", "two replicas"])
async def test_of_first_upserts_of_many_models_one_models_are_stored(
    replicas: list[VectorSearchServicer], monkeypatch: pytest.MonkeyPatch, count: int, seconds: float
) -> None:
    monkeypatch.setattr("services.vector_search.store.BIND_SECONDS", seconds)
    service = replicas[0]
    for _ in range(4 if count == 1 else 1):
        name = await created(service)
        calls = [upsert(replicas[i % count], name, {f"e{i}": {}}, f"m@{i}") for i in range(16)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        (stored,) = [i for i, result in enumerate(results) if result == 1]
        others = [result for result in results if isinstance(result, GenmeshError)]
        assert [other.reason for other in others] == ["MODEL_REVISION_MISMATCH"] * 15
        assert await get(service, name) == [f"e{stored}"]
        assert await revision_of(service, name) == f"m@{stored}"


async def emptied(service: VectorSearchServicer, name: str) -> None:
    await service.Delete(pb.DeleteRequest(collection=name, ids=["first", "second"]), None)


async def made_anew(service: VectorSearchServicer, name: str) -> None:
    await service.DeleteCollection(pb.DeleteCollectionRequest(collection=name), None)
    await created(service, name)


@pytest.mark.parametrize("empty", [emptied, made_anew])
@pytest.mark.parametrize("by", [0, 1], ids=["itself", "another replica"])
async def test_a_collection_that_is_empty_again_belongs_to_the_next_model(
    service: VectorSearchServicer, replicas: list[VectorSearchServicer], empty: Any, by: int
) -> None:
    name = await created(service)
    await upsert(service, name, {"first": {}})
    await upsert(service, name, {"second": {}}, "m@1")
    assert await revision_of(service, name) == ""
    await empty(replicas[by], name)
    await upsert(service, name, {"one": {}}, "m@1")
    assert await revision_of(service, name) == "m@1"
    with pytest.raises(FailedPrecondition):
        await upsert(service, name, {"two": {}}, "m@2")
    assert await get(service, name) == ["one"]


@pytest.mark.parametrize("revision", ["noat", "@", "a@", "@b", "m@" + "1" * 199])
async def test_a_revision_that_is_none(service: VectorSearchServicer, revision: str) -> None:
    collection = pb.Collection(name="x", dimension=2, model_revision=revision)
    create = service.CreateCollection(pb.CreateCollectionRequest(collection=collection), None)
    assert (await fault(create))[0] == "collection.model_revision"
    assert (await fault(upsert(service, "x", {"a": {}}, revision)))[0] == "model_revision"
    search = service.Search(pb.SearchRequest(collection="x", model_revision=revision), None)
    assert (await fault(search))[0] == "model_revision"
    stream = service.UpsertStream(requests(pb.UpsertRequest(collection="x", model_revision=revision)), None)
    assert (await fault(anext(stream)))[0] == "request.model_revision"


async def requests(*found: pb.UpsertRequest) -> AsyncIterator[pb.UpsertStreamRequest]:
    for request in found:
        yield pb.UpsertStreamRequest(request=request)


# Filters

TYPES = {
    "b0": {"flag": False}, "b1": {"flag": True}, "i0": {"flag": 0}, "i1": {"flag": 1}, "l1": {"flag": [1]}, "n1": {"flag": None},
    "none": {}, "s1": {"flag": "1"},
}  # fmt: skip


@pytest.fixture
async def types(service: VectorSearchServicer) -> str:
    name = await created(service)
    await upsert(service, name, TYPES)
    return name


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("flag = true", ["b1"]),
        ("flag = false", ["b0"]),
        ("flag = 1", ["i1"]),
        ("flag = 1.0", ["i1"]),
        ("flag = 0", ["i0"]),
        ('flag = "1"', ["s1"]),
        ("flag != true", ["b0", "i0", "i1", "l1", "s1"]),
        ("NOT flag = true", ["b0", "i0", "i1", "l1", "s1"]),
        ("flag != 1", ["b0", "b1", "i0", "l1", "s1"]),
        ("NOT flag = 1", ["b0", "b1", "i0", "l1", "s1"]),
        ('NOT flag IN (1, "1")', ["b0", "b1", "i0", "l1"]),
        ('flag IN [1, "1"]', ["i1", "s1"]),
        ("flag IN (true, 0)", ["b1", "i0"]),
        ("flag > 0", ["i1"]),
        ("flag <= 1", ["i0", "i1"]),
        ("NOT flag > 0", ["i0"]),
        ('flag > ""', ["s1"]),
        ("flag != true AND flag != 1 OR flag = true", ["b0", "b1", "i0", "l1", "s1"]),
    ],
)
async def test_a_filter_keeps_types_apart(
    service: VectorSearchServicer, types: str, where: str, ids: list[str]
) -> None:
    assert await get(service, types, filter=where) == ids
    request = pb.SearchRequest(
        collection=types, vectors=[pb.QueryVector(values=[1, 0])], filter=where, limit=20, include_vectors=True
    )
    found = (await service.Search(request, None)).results[0].hits
    assert sorted(hit.entity.id for hit in found) == ids
    assert (await service.Delete(pb.DeleteRequest(collection=types, filter=where), None)).deleted_count == len(ids)
    assert await get(service, types) == sorted(TYPES.keys() - set(ids))


NUMBERS = {
    "p53": 2**53, "p53and1": 2**53 + 1, "uid": 1234567890123456789, "p63": 2**63, "p64": 2**64, "huge": 1e300, "half": 0.5,
    "minus": -(2**53) - 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("n = 1234567890123456789", ["uid"]),
        ("n IN (1234567890123456789)", ["uid"]),
        ("n != 1234567890123456789", sorted(NUMBERS.keys() - {"uid"})),
        ("n = 9007199254740993", ["p53", "p53and1"]),  # one double
        ("n = 9007199254740992", ["p53", "p53and1"]),
        ("n = -9007199254740993", ["minus"]),
        ("n = 9223372036854775807", ["p63"]),
        ("n > 9223372036854775807", ["huge", "p64"]),
        ("n >= 9223372036854775807", ["huge", "p63", "p64"]),
        ("n = 18446744073709551616", ["p64"]),
        ("n = 1e300", ["huge"]),
        ("n = 5e-1", ["half"]),
        ("n < 1e-400", ["minus"]),
    ],
)
async def test_a_filters_numbers_are_rounded_as_metadata_is(
    service: VectorSearchServicer, where: str, ids: list[str]
) -> None:
    name = await created(service)
    await upsert(service, name, {key: {"n": value} for key, value in NUMBERS.items()})
    assert await get(service, name, filter=where) == ids


# Metadata


async def test_metadata_is_counted_as_utf_8_and_its_levels_have_a_limit(service: VectorSearchServicer) -> None:
    name = await created(service)
    deepest: dict[str, Any] = {"end": 1}
    for _ in range(15):
        deepest = {"x": deepest}
    longest = {"a": "é" * 32_763 + "xx"}
    assert await upsert(service, name, {"deep": deepest, "long": longest}) == 2
    assert await get(service, name, filter="x." * 15 + "end = 1") == ["deep"]
    field = "entities[1].metadata"
    for metadata, description in (
        ({"x": deepest}, "is nested more than 16 levels deep"),
        ({"a": longest["a"] + "x"}, "has 65537 bytes as JSON; at most 65536 are allowed"),
        ({"a": [float("nan")]}, "has a number that is NaN or infinite"),
    ):
        assert await fault(upsert(service, name, {"good": {}, "bad": metadata})) == (field, description)
    assert await get(service, name) == ["deep", "long"]


# Pages


async def test_a_page_token_is_of_what_was_asked(service: VectorSearchServicer) -> None:
    name, other = await created(service), await created(service)
    rows = {f"e{i}": {"n": i} for i in range(4)}
    for one in (name, other):
        await upsert(service, one, rows)
    asked = {"collection": name, "filter": "n >= 0", "id_prefix": "e", "page_size": 2}
    token = (await service.Get(pb.GetRequest(**asked), None)).next_page_token
    assert (await service.Get(pb.GetRequest(**asked, page_token=token), None)).entities[0].id == "e2"
    listed = (await service.ListCollections(pb.ListCollectionsRequest(page_size=1), None)).next_page_token
    assert await service.ListCollections(pb.ListCollectionsRequest(page_token=listed), None)
    for more in (
        {"collection": other}, {"filter": "n >= 1"}, {"filter": ""}, {"id_prefix": ""}, {"page_token": listed},
        {"page_token": "ZTE="}, {"page_token": "!"}, {"page_token": token[:-4]}, {"page_token": "A" + token[1:]},
    ):  # fmt: skip
        with pytest.raises(InvalidArgument) as caught:
            await service.Get(pb.GetRequest(**({**asked, "page_token": token} | more)), None)
        assert (caught.value.reason, caught.value.violations[0].field) == ("INVALID_PAGE_TOKEN", "page_token")
    assert (await fault(service.ListCollections(pb.ListCollectionsRequest(page_token=token), None)))[0] == "page_token"
    beside = service.Get(pb.GetRequest(collection=name, ids=["e1"], page_token=token), None)
    assert await fault(beside) == ("page_token", "ids and a page_token exclude each other")
    identity.enter(identity.Call("other", "", ""))
    assert (await fault(service.ListCollections(pb.ListCollectionsRequest(page_token=listed), None)))[0] == "page_token"


@pytest.mark.parametrize("place", ["a", "日本語\x00", "\U0010ffff" * 64])
def test_a_place_comes_back(place: str) -> None:
    token = token_of(place, "Get", "acme")
    assert place_of(token, "Get", "acme") == place
    with pytest.raises(InvalidArgument):
        place_of(token, "Get", "acme", "")


# Deletes


async def test_deletes_at_once_count_each_entity_once(
    service: VectorSearchServicer, replicas: list[VectorSearchServicer]
) -> None:
    name = await created(service)
    rows = {f"e{i}": {"n": i} for i in range(50)}
    await upsert(service, name, rows)
    by_id = pb.DeleteRequest(collection=name, ids=[*rows, "none"])
    by_filter = pb.DeleteRequest(collection=name, filter="n >= 0")
    calls = [replicas[i % 2].Delete(by_id if i < 4 else by_filter, None) for i in range(8)]
    assert sum(answer.deleted_count for answer in await asyncio.gather(*calls)) == 50
    assert await get(service, name) == []


async def test_a_collection_is_deleted_once(service: VectorSearchServicer) -> None:
    for _ in range(3):
        name = await created(service)
        request = pb.DeleteCollectionRequest(collection=name)
        calls = [service.DeleteCollection(request, None) for _ in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(result == pb.DeleteCollectionResponse() for result in results) == 1
        assert sum(isinstance(result, NotFound) for result in results) == 7


# Searches


async def test_a_mode_that_is_none(service: VectorSearchServicer) -> None:
    name = await created(service)
    request = pb.SearchRequest(
        collection=name, vectors=[pb.QueryVector(values=[1, 0])], mode=9  # type: ignore[arg-type]
    )  # fmt: skip
    assert await fault(service.Search(request, None)) == ("mode", "is 9, which is no mode")
