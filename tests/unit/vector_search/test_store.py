"""Collections' names in Milvus, there and back and never shared by two tenants; and what its failures become."""

import asyncio
import math
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pymilvus.exceptions import MilvusException

from services.runtime import deadline
from services.runtime.errors import GenmeshError
from services.runtime.metrics import VectorSearch
from services.vector_search.generations import Shape, first_of, following, number_of
from services.vector_search.servicer import NAME
from services.vector_search.store import CALL_TIMEOUT_SECONDS, THREADS, Store
from tests.waiting import eventually

names = st.from_regex(NAME, fullmatch=True)
tenants = st.from_regex(re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}"), fullmatch=True)


@given(tenants, names)
def test_a_name_comes_back_as_it_was(tenant: str, name: str) -> None:
    assert Store.logical(tenant, Store.physical(tenant, name)) == name


@pytest.mark.parametrize("name", ["a_h", "a-h", "a_u", "a-u", "a_-h", "a-_u", "a__", "a--", "a_u_h", "h_", "u-"])
def test_names_that_look_like_escapes_come_back(name: str) -> None:
    assert Store.logical("acme", Store.physical("acme", name)) == name


@given(tenants, names)
def test_a_physical_name_is_one_that_milvus_takes(tenant: str, name: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", Store.physical(tenant, name))


@given(st.tuples(tenants, names), st.tuples(tenants, names))
def test_different_collections_have_different_physical_names(one: tuple[str, str], two: tuple[str, str]) -> None:
    assert (Store.physical(*one) == Store.physical(*two)) == (one == two)


@given(st.lists(st.text("ab_-hu", min_size=1, max_size=4).map("x".__add__), min_size=2, max_size=20, unique=True))
def test_names_of_one_tenant_never_collide(found: list[str]) -> None:
    assert len({Store.physical("acme", name) for name in found}) == len(found)


@given(tenants, names, st.integers(1, 5))
def test_a_generation_is_told_from_a_name(tenant: str, name: str, count: int) -> None:
    base = physical = Store.physical(tenant, name)
    for _ in range(count):
        before, physical = physical, following(physical)
        assert number_of(physical) > number_of(before)
    assert (first_of(physical), Store.logical(tenant, physical)) == (base, name)
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", physical)


@pytest.mark.parametrize("name", ["g1", "x-g1", "x_g1", "x__g1", "0", "r1"])
def test_names_that_look_like_generations_are_names(name: str) -> None:
    assert number_of(Store.physical("acme", name)) == 0


@pytest.mark.parametrize(("one", "two"), [("a", "a_"), ("a_b", "a"), ("acme", "acme-2"), ("t", "tt"), ("a", "A")])
def test_no_tenants_names_start_with_anothers_prefix(one: str, two: str) -> None:
    name = "b_docs"
    prefix = Store.physical(one, name).removesuffix("b_udocs")
    assert prefix != Store.physical(one, name)
    assert not Store.physical(two, name).startswith(prefix)
    assert Store.physical(one, "other").startswith(prefix)


ROW = {"vector": [1.0, 0.0]}


class FaultyMilvus:
    """Milvus as far as these tests need it: it lists, or fails as told, first failure first."""

    def __init__(self, found: list[str] | None = None, failures: list[Exception] | None = None) -> None:
        self.found, self.failures, self.loaded = found or [], failures or [], []
        self.upserts, self.away = 0, False

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def list_collections(self, timeout: float) -> list[str]:
        if self.away:
            raise ConnectionRefusedError("no")
        self._fail()
        return self.found

    def upsert(self, name: str, rows: list[dict[str, Any]], timeout: float) -> None:
        self.upserts += 1
        self._fail()

    def load_collection(self, name: str, timeout: float) -> None:
        self.loaded.append(name)

    def describe_collection(self, name: str, timeout: float) -> dict[str, Any]:
        return {"fields": [{"name": "vector", "params": {"dim": 2}}]}

    def describe_index(self, name: str, index: str, timeout: float) -> dict[str, Any]:
        return {"metric_type": "COSINE"}

    def close(self) -> None:
        pass


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    found = Store("http://127.0.0.1:1", "", VectorSearch("vector_search", CollectorRegistry()), 1.0)
    docs = Store.physical("acme", "docs")
    found._shapes[docs] = Shape(docs, 2, "COSINE", asked=math.inf)  # known, and never old
    yield found
    await found.close()


async def test_a_tenant_lists_its_own_collections_by_their_own_names(store: Store) -> None:
    names = [Store.physical("acme", "b-1"), Store.physical("other", "x"), Store.physical("acme", "a_1"), "stray"]
    store._client = FaultyMilvus(names)  # type: ignore[assignment]
    assert await store.names("acme") == ["a_1", "b-1"]
    assert await store.names("nobody") == []


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        (MilvusException(100, "no such collection"), "NOT_FOUND", "COLLECTION_NOT_FOUND"),
        (MilvusException(2, "fail"), "UNAVAILABLE", "VECTOR_STORE_UNAVAILABLE"),
        (MilvusException(grpc.StatusCode.UNAVAILABLE, "gone"), "UNAVAILABLE", "VECTOR_STORE_UNAVAILABLE"),
        (ConnectionRefusedError("no"), "UNAVAILABLE", "VECTOR_STORE_UNAVAILABLE"),
        ([MilvusException(101, "loaded, and not")] * 2, "UNAVAILABLE", "VECTOR_STORE_UNAVAILABLE"),
        (MilvusException(1100, "broken index"), "INTERNAL", "VECTOR_STORE_FAILED"),
    ],
)
async def test_failures_of_milvus_are_told_apart(
    store: Store, failure: Exception | list[Exception], code: str, reason: str
) -> None:
    store._client = FaultyMilvus(failures=failure if isinstance(failure, list) else [failure])  # type: ignore[assignment]
    with pytest.raises(GenmeshError) as caught:
        await store.upsert("acme", "docs", [ROW], "entities[0].vector")
    assert (caught.value.code.name, caught.value.reason) == (code, reason)


async def test_a_collection_that_is_not_loaded_is_loaded_and_asked_again(store: Store) -> None:
    client = store._client = FaultyMilvus(failures=[MilvusException(101, "not loaded")])  # type: ignore[assignment]
    assert await store.upsert("acme", "docs", [ROW, ROW], "entities[0].vector") == 2
    assert client.loaded == [Store.physical("acme", "docs")]


NOT_LOADED = MilvusException(101, "released")
RESTARTS = [
    NOT_LOADED,
    NOT_LOADED,
    ConnectionRefusedError("no"),
    MilvusException(2, "fail"),
    MilvusException(1, "reading its collections"),
]


async def test_calls_wait_for_a_milvus_that_restarts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.vector_search.store.RETRY_SECONDS", 0.01)
    store.patience = 60.0
    store._client = FaultyMilvus(failures=list(RESTARTS))  # type: ignore[assignment]
    assert await store.upsert("acme", "docs", [ROW], "entities[0].vector") == 1


async def test_one_probe_asks_for_all_that_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage costs ten calls that it met one more attempt each, and ten that came later none."""
    monkeypatch.setattr("services.vector_search.store.RETRY_SECONDS", 0.001)
    store.patience = 60.0
    client = store._client = FaultyMilvus(failures=[ConnectionRefusedError("no")] * 10)  # type: ignore[assignment]
    client.away = True
    met = [asyncio.create_task(store.upsert("acme", "docs", [ROW], "entities[0].vector")) for _ in range(10)]
    await eventually(lambda: client.upserts == 10 and store._probing)
    later = [asyncio.create_task(store.upsert("acme", "docs", [ROW], "entities[0].vector")) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert client.upserts == 10
    client.away = False
    assert await asyncio.gather(*met, *later) == [1] * 20
    assert client.upserts == 30
    assert store.metrics.retries._value.get() == 10


async def test_one_that_has_been_away_for_long_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.vector_search.store.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("services.vector_search.store.RESTART_SECONDS", 0.1)
    store.patience = 1e6
    store._client = FaultyMilvus(failures=[ConnectionRefusedError("no")] * 10_000)  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(GenmeshError) as caught:
            await store.upsert("acme", "docs", [ROW], "entities[0].vector")
        assert caught.value.reason == "VECTOR_STORE_UNAVAILABLE"


async def test_they_do_not_wait_for_one_that_fails_while_it_is_there(store: Store) -> None:
    store.patience = 60.0
    store._client = FaultyMilvus(failures=[MilvusException(1100, "broken index")])  # type: ignore[assignment]
    with pytest.raises(GenmeshError, match="broken index"):
        await store.upsert("acme", "docs", [ROW], "entities[0].vector")


async def test_patience_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.vector_search.store.RETRY_SECONDS", 0.01)
    store.patience = 0.1
    store._client = FaultyMilvus(failures=[ConnectionRefusedError("no")] * 10_000)  # type: ignore[assignment]
    with pytest.raises(GenmeshError) as caught:
        await store.upsert("acme", "docs", [ROW], "entities[0].vector")
    assert caught.value.reason == "VECTOR_STORE_UNAVAILABLE"


async def test_a_call_to_milvus_has_what_is_left_of_the_callers_deadline(store: Store) -> None:
    given: list[float] = []

    class Milvus(FaultyMilvus):
        def list_collections(self, timeout: float) -> list[str]:
            given.append(timeout)
            return []

    store._client = Milvus()  # type: ignore[assignment]
    await store.names("acme")
    deadline.enter(5)
    await store.names("acme")
    assert given[0] == CALL_TIMEOUT_SECONDS
    assert given[1] <= 5


async def test_a_call_whose_caller_left_before_its_turn_never_begins(store: Store) -> None:
    go_on, begun = threading.Event(), []

    def work(client: Any) -> None:
        begun.append(client)
        go_on.wait()

    store._client = FaultyMilvus()  # type: ignore[assignment]
    calls = [asyncio.create_task(store.call("query", work)) for _ in range(THREADS + 1)]
    await eventually(lambda: len(begun) == THREADS)
    calls[-1].cancel()
    await asyncio.wait([calls[-1]])
    await store.ping()  # has a thread of its own
    go_on.set()
    await asyncio.gather(*calls[:-1])
    assert len(begun) == THREADS
