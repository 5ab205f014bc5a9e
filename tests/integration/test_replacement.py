"""A collection belongs to a model's revision, and all its vectors can be replaced while it serves and changes."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from genmesh import Client
from genmesh.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from genmesh.v1 import vector_search_pb2 as pb
from prometheus_client import CollectorRegistry

from services.runtime import deadline
from services.runtime.errors import GenmeshError
from services.runtime.metrics import VectorSearch
from services.vector_search import replacement
from services.vector_search.generations import CLOSED, DRAFT, REPLACED, generations, mark
from services.vector_search.replacement import Replacement
from services.vector_search.store import Store
from tests.integration.test_vector_search import pages
from tests.waiting import until

OLD, NEW = "small@1", "large@2"


def rows(*numbers: int, text: str = "text") -> list[dict[str, Any]]:
    return [
        {"id": f"e{i:03}", "vector": [1, i], "text": f"{text} {i}", "metadata": {"n": i, "of": text}} for i in numbers
    ]


@pytest.fixture
def bound(client: Client, collection: str) -> str:
    client.vector_search.CreateCollection(
        {"collection": {"name": collection, "dimension": 2, "metric": "METRIC_EUCLIDEAN", "description": "numbers",
                        "model_revision": OLD}}
    )  # fmt: skip
    client.vector_search.Upsert({"collection": collection, "entities": rows(*range(200))})
    return collection


def search(client: Client, collection: str, vector: list[float], revision: str, **more: Any) -> list[str]:
    request = {"collection": collection, "vectors": [{"values": vector}], "model_revision": revision, **more}
    return [hit.entity.id for hit in client.vector_search.Search(request).results[0].hits]


def refused(call: Any) -> dict[str, str]:
    with pytest.raises(FailedPrecondition) as failure:
        call()
    assert failure.value.reason == "MODEL_REVISION_MISMATCH"
    assert failure.value.metadata["collection_revision"] in str(failure.value)
    return {k: v for k, v in failure.value.metadata.items() if k.endswith("_revision")}


class Caller:
    """The other end of ReplaceVectors; a new vector is (n, n, n)."""

    def __init__(self, client: Client, collection: str, revision: str = NEW, dimension: int = 3) -> None:
        self._client, self._answers = client, list[Any]()
        self._start = {"collection": collection, "model_revision": revision, "dimension": dimension}
        self._more = threading.Semaphore(0)
        self.done: pb.ReplaceVectorsDone | None = None

    def _requests(self) -> Iterator[Any]:
        yield {"start": self._start}
        while self._more.acquire() and self._answers:
            yield {"vectors": {"vectors": self._answers.pop(0)}}

    def batches(self, timeout: float = 120) -> Iterator[pb.ReplaceVectorsBatch]:
        """Each is answered once the next is asked for."""
        try:
            with self._client.vector_search.ReplaceVectors(self._requests(), timeout=timeout) as answers:
                for answer in answers:
                    if answer.HasField("done"):
                        self.done = answer.done
                        return
                    yield answer.batch
                    self._answers.append([{"values": [e.metadata["n"]] * 3} for e in answer.batch.entities])
                    self._more.release()
        finally:
            self._answers.clear()
            self._more.release()


def test_vectors_of_another_model_are_refused(client: Client, bound: str) -> None:
    assert client.vector_search.GetCollection({"collection": bound}).collection.model_revision == OLD
    assert search(client, bound, [1, 7], OLD)[0] == search(client, bound, [1, 7], "")[0] == "e007"
    wanted = {"collection_revision": OLD, "request_revision": NEW}
    assert refused(lambda: search(client, bound, [1, 7], NEW)) == wanted
    assert refused(lambda: search(client, bound, [1, 7, 7], NEW)) == wanted  # rather than the length
    upsert = {"collection": bound, "entities": rows(7, text="new"), "model_revision": NEW}
    assert refused(lambda: client.vector_search.Upsert(upsert)) == wanted
    assert refused(lambda: list(client.vector_search.UpsertStream(iter([{"request": upsert}])))) == wanted
    assert client.vector_search.Get({"collection": bound, "ids": ["e007"]}).entities[0].text == "text 7"


def test_an_empty_collection_belongs_to_the_model_of_its_first_vectors(client: Client, collection: str) -> None:
    def revision() -> str:
        return client.vector_search.GetCollection({"collection": collection}).collection.model_revision

    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    assert revision() == ""
    client.vector_search.Upsert({"collection": collection, "entities": rows(1), "model_revision": OLD})
    assert revision() == OLD
    refused(lambda: client.vector_search.Upsert({"collection": collection, "entities": rows(2), "model_revision": NEW}))
    client.vector_search.DeleteCollection({"collection": collection})
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    client.vector_search.Upsert({"collection": collection, "entities": rows(1)})
    client.vector_search.Upsert({"collection": collection, "entities": rows(2), "model_revision": OLD})
    assert revision() == ""  # of which model the first is, nobody knows
    assert search(client, collection, [1, 2], NEW)[0] == "e002"


def test_vectors_are_replaced_while_the_collection_serves_and_changes(client: Client, bound: str) -> None:
    caller, ended, written = Caller(client, bound), threading.Event(), set[str]()

    def write() -> str:
        """Until the collection is another model's; what was acknowledged."""
        for n in range(1000, 3000):
            (row,) = rows(n)
            try:
                client.vector_search.Upsert({"collection": bound, "entities": [row], "model_revision": OLD})
            except FailedPrecondition as failure:
                return failure.reason
            written.add(row["id"])
            time.sleep(0.02)
        return ""

    def read() -> int:
        """Until then every search finds the same."""
        count = 0
        while not ended.is_set():
            try:
                assert search(client, bound, [1, 50], OLD, filter="n < 200 AND n != 7", limit=1) == ["e050"]
            except FailedPrecondition:
                return count
            count += 1
        return -1

    with ThreadPoolExecutor(2) as pool:
        writer, reader = pool.submit(write), pool.submit(read)
        sizes = []
        for number, batch in enumerate(caller.batches()):
            sizes.append(len(batch.entities))
            assert not any(e.vector for e in batch.entities)
            assert batch.total_count == 200 or batch.total_count > 200
            if number == 0:  # of one that is done, one that is not, and both again at the end
                client.vector_search.Delete({"collection": bound, "ids": ["e000", "e150"]})
                client.vector_search.Upsert({"collection": bound, "entities": rows(1, 151, text="changed")})
                with pytest.raises(Aborted) as second:
                    next(Caller(client, bound).batches())
                assert second.value.reason == "REPLACEMENT_RUNNING"
        ended.set()
        assert writer.result() == "MODEL_REVISION_MISMATCH"
        assert reader.result() > 0
    assert max(sizes) <= 64
    everything = {f"e{i:03}" for i in range(200)} - {"e000", "e150"} | written
    assert set(pages(client, bound, 1000)) == everything
    info = client.vector_search.GetCollection({"collection": bound}).collection
    assert (info.dimension, info.model_revision, info.description) == (3, NEW, "numbers")
    assert (info.metric, info.entity_count) == (pb.METRIC_EUCLIDEAN, len(everything))
    assert caller.done is not None
    assert caller.done.entity_count == len(everything)
    assert caller.done.replaced_count == sum(sizes) >= len(everything)
    got = client.vector_search.Get({"collection": bound, "ids": ["e001", "e151", "e099"], "include_vectors": True})
    assert [(e.text, list(e.vector)) for e in got.entities] == [
        ("changed 1", [1] * 3), ("changed 151", [151] * 3), ("text 99", [99] * 3)
    ]  # fmt: skip
    assert search(client, bound, [42, 42, 42], NEW)[0] == "e042"
    assert refused(lambda: search(client, bound, [1, 42], OLD)) == {
        "collection_revision": NEW, "request_revision": OLD
    }  # fmt: skip
    assert bound in [c.name for c in client.vector_search.ListCollections({"page_size": 1000}).collections]
    again = Caller(client, bound)
    assert list(again.batches()) == []
    assert again.done == pb.ReplaceVectorsDone(replaced_count=0, entity_count=len(everything))


def begin(
    client: Client, collection: str, revision: str = NEW
) -> tuple[Caller, pb.ReplaceVectorsBatch, Iterator[pb.ReplaceVectorsBatch]]:
    """A call and its first batch, once the call before has been cleared away."""
    found: list[Any] = []

    def begun() -> bool:
        caller = Caller(client, collection, revision)
        batches = caller.batches()
        with suppress(Aborted):
            found.extend((caller, next(batches), batches))
        return bool(found)

    until(begun)
    return tuple(found)  # type: ignore[return-value]


def test_a_call_that_breaks_is_gone_on_with(client: Client, bound: str) -> None:
    _, first, rest = begin(client, bound)
    next(rest)
    rest.close()  # type: ignore[attr-defined]
    assert search(client, bound, [1, 7], OLD)[0] == "e007"
    caller, second, rest = begin(client, bound)
    assert second.done_count == 64
    there = [e.id for batch in (second, *rest) for e in batch.entities]
    assert sorted(there) == [f"e{i:03}" for i in range(64, 200)]
    assert {e.id for e in first.entities} == {f"e{i:03}" for i in range(64)}
    assert caller.done == pb.ReplaceVectorsDone(replaced_count=136, entity_count=200)
    assert pages(client, bound, 1000) == [f"e{i:03}" for i in range(200)]


def test_another_revision_begins_anew_and_what_is_deleted_is_gone(client: Client, bound: str) -> None:
    for revision in (NEW, "other@1"):
        _, first, rest = begin(client, bound, revision)
        assert first.done_count == 0
        next(rest)
        rest.close()  # type: ignore[attr-defined]
    client.vector_search.DeleteCollection({"collection": bound})
    with pytest.raises(NotFound):
        client.vector_search.GetCollection({"collection": bound})
    assert bound not in [c.name for c in client.vector_search.ListCollections({"page_size": 1000}).collections]
    client.vector_search.CreateCollection({"collection": {"name": bound, "dimension": 4}})
    assert pages(client, bound, 10) == []


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "start"),
        ([{"vectors": {}}], "start"),
        ([{"start": {"collection": "", "model_revision": NEW, "dimension": 3}}], "start.collection"),
        ([{"start": {"collection": "x", "dimension": 3}}], "start.model_revision"),
        ([{"start": {"collection": "x", "model_revision": NEW, "dimension": 0}}], "start.dimension"),
        (["start"], "vectors"),
        (["start", "start"], "vectors"),
        (["start", {"vectors": {"vectors": [{"values": [1, 2, 3]}]}}], "vectors.vectors"),
        (["start", {"vectors": {"vectors": [{"values": [1, 2, 3]}] * 63 + [{"values": [1, 2]}]}}],
         "vectors.vectors[63].values"),
    ],
)  # fmt: skip
def test_a_wrong_step_names_its_field(client: Client, bound: str, requests: list[Any], field: str) -> None:
    start = {"start": {"collection": bound, "model_revision": NEW, "dimension": 3}}
    sent = [start if request == "start" else request for request in requests]
    with pytest.raises(InvalidArgument) as failure:
        list(client.vector_search.ReplaceVectors(iter(sent)))
    assert failure.value.field_violations[0].field == field


@pytest.fixture
async def store(running) -> AsyncIterator[Store]:
    url = f"http://127.0.0.1:{running.cluster.ports['milvus']}"
    found = Store(url, "", VectorSearch("vector_search", CollectorRegistry()), 60.0)
    yield found
    await found.close()


async def test_who_dies_in_the_end_holds_changes_up_for_a_while_only(
    store: Store, client: Client, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "MARK_SECONDS", 3600.0)
    monkeypatch.setattr(replacement, "SETTLE_SECONDS", 0.0)
    dead = Replacement(store, "alpha", bound, NEW, 3)
    assert await dead.begin()
    async for batch in dead.missing():
        await dead.put(batch, [[1.0, 2.0, 3.0]] * len(batch))
    # It never ends. Changes wait, as long as their deadline lets them; searches do not.
    deadline.enter(1)
    with pytest.raises(GenmeshError) as waited:
        await store.upsert("alpha", bound, rows(1), "vector")
    assert waited.value.reason == "COLLECTION_SWITCHES"
    deadline.enter(math.inf)
    assert search(client, bound, [1, 7], OLD)[0] == "e007"
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(client.vector_search.Delete, {"collection": bound, "ids": ["e001"]})
        await asyncio.sleep(1)
        assert not gone.done()
        old, draft = await store.call("list", lambda c: generations(c, Store.physical("alpha", bound)))
        for name, key, past in ((old, CLOSED, "1"), (draft, DRAFT, "dead 1")):  # its marks end
            await store.call("alter", lambda c, n=name, k=key, p=past: mark(c, n, {k: p}))
        assert (await asyncio.wrap_future(gone)).deleted_count == 1
    assert await replaced(store, bound, NEW) == 0
    info = client.vector_search.GetCollection({"collection": bound}).collection
    assert (info.model_revision, info.entity_count) == (NEW, 199)
    assert client.vector_search.Delete({"collection": bound, "ids": ["e002"]}).deleted_count == 1


@pytest.mark.parametrize("undrafted", [False, True])
async def test_a_turn_that_is_interrupted_is_a_turn(
    store: Store, client: Client, bound: str, monkeypatch: pytest.MonkeyPatch, undrafted: bool
) -> None:
    monkeypatch.setattr(replacement, "SETTLE_SECONDS", 0.0)
    base = Store.physical("alpha", bound)
    assert search(client, bound, [1, 7], OLD)[0] == "e007"
    dead = Replacement(store, "alpha", bound, NEW, 3)
    assert await dead.begin()
    async for batch in dead.missing():
        await dead.put(batch, [[row["metadata"]["n"]] * 3 for row in batch])
    old, new = await store.call("list", lambda c: generations(c, base))
    await store.call("alter", lambda c: mark(c, old, {REPLACED: 1}))
    if undrafted:
        await store.call("alter", lambda c: mark(c, new, {DRAFT: None}))
    # It is dead before the old vectors are dropped.
    assert search(client, bound, [7, 7, 7], NEW)[0] == "e007"
    refused(lambda: search(client, bound, [1, 7], OLD))
    rows_of_new = [row | {"vector": [8, 8, 8]} for row in rows(8, text="new")]
    upsert = {"collection": bound, "entities": rows_of_new, "model_revision": NEW}
    await asyncio.to_thread(client.vector_search.Upsert, upsert)
    with pytest.raises(AlreadyExists):
        client.vector_search.CreateCollection({"collection": {"name": bound, "dimension": 2}})
    found = [c for c in client.vector_search.ListCollections({"page_size": 1000}).collections if c.name == bound]
    assert [(c.model_revision, c.entity_count) for c in found] == [(NEW, 200)]
    if undrafted:
        assert await replaced(store, bound, "third@3") == 200
        assert len(await store.call("list", lambda c: generations(c, base))) == 1
        assert search(client, bound, [7, 7, 7], "third@3")[0] == "e007"
        assert client.vector_search.Get({"collection": bound, "ids": ["e008"]}).entities[0].text == "new 8"
    client.vector_search.DeleteCollection({"collection": bound})
    assert await store.call("list", lambda c: generations(c, base)) == []
    client.vector_search.CreateCollection({"collection": {"name": bound, "dimension": 2}})
    assert pages(client, bound, 10) == []


async def test_a_turn_that_is_interrupted_is_ended_by_the_next(
    store: Store, client: Client, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "SETTLE_SECONDS", 0.0)
    base = Store.physical("alpha", bound)
    dead = Replacement(store, "alpha", bound, NEW, 3)
    assert await dead.begin()
    async for batch in dead.missing():
        await dead.put(batch, [[1.0, 2.0, 3.0]] * len(batch))
    old, _ = await store.call("list", lambda c: generations(c, base))
    await store.call("alter", lambda c: mark(c, old, {REPLACED: 1}))
    assert await replaced(store, bound, NEW) == 0
    assert len(await store.call("list", lambda c: generations(c, base))) == 1
    assert len(pages(client, bound, 1000)) == 200


async def replaced(store: Store, collection: str, revision: str) -> int:
    """Replace all vectors by (n, n, n); how many that took."""
    work = Replacement(store, "alpha", collection, revision, 3)
    if await work.begin():
        async for batch in work.missing():
            await work.put(batch, [[row["metadata"]["n"]] * 3 for row in batch])
        await work.end()
    await work.leave()
    return work.taken
