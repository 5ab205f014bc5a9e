"""A call to Milvus ends when its caller leaves, seen from Milvus' side."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

from services.runtime.metrics import VectorSearch
from services.vector_search.store import Store
from tests.waiting import eventually

DEADLINE_SECONDS = 3600.0  # longer than any wait of a test: only a cancelled call ends before


class SlowMilvus(milvus_pb2_grpc.MilvusServiceServicer):
    """Answers no call but the first ones of a connection, and notes how each ends."""

    def __init__(self) -> None:
        self.running, self.ended, self.stop = 0, 0, threading.Event()

    def Connect(self, request: Any, context: grpc.ServicerContext) -> Any:
        return milvus_pb2.ConnectResponse(identifier=1)

    def GetVersion(self, request: Any, context: grpc.ServicerContext) -> Any:
        return milvus_pb2.GetVersionResponse(version="3.0.0")

    def ShowCollections(self, request: Any, context: grpc.ServicerContext) -> Any:
        over = threading.Event()
        context.add_callback(over.set)
        self.running += 1
        while not over.wait(0.01) and not self.stop.is_set():
            pass
        self.ended += 1
        return milvus_pb2.ShowCollectionsResponse()


@pytest.fixture
def milvus() -> Iterator[tuple[SlowMilvus, str]]:
    slow = SlowMilvus()
    server = grpc.server(ThreadPoolExecutor(8))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(slow, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield slow, f"http://127.0.0.1:{port}"
    slow.stop.set()
    server.stop(None).wait()


@pytest.fixture
async def store(milvus: tuple[SlowMilvus, str]) -> AsyncIterator[Store]:
    found = Store(milvus[1], "root:Milvus", VectorSearch("vector_search", CollectorRegistry()), 0.0)
    yield found
    await found.close()


def lists(times: int = 1) -> Callable[[Any], list[str]]:
    def work(client: Any) -> list[str]:
        for _ in range(times):
            with suppress(Exception):
                client.list_collections(timeout=DEADLINE_SECONDS)
        return []

    return work


def idle(store: Store) -> bool:
    return bool(store._pool._idle_semaphore._value)


@pytest.mark.parametrize("times", [1, 3], ids=["one", "several in order"])
async def test_a_running_call_ends_with_its_caller(milvus: tuple[SlowMilvus, str], store: Store, times: int) -> None:
    slow, _ = milvus
    call = asyncio.create_task(store.call("list", lists(times)))
    await eventually(lambda: slow.running == 1)
    call.cancel()
    await eventually(lambda: slow.ended == slow.running)
    await eventually(lambda: idle(store))


async def test_the_one_who_stays_is_not_ended(milvus: tuple[SlowMilvus, str], store: Store) -> None:
    slow, _ = milvus
    calls = [asyncio.create_task(store.call("list", lists())) for _ in range(2)]
    await eventually(lambda: slow.running == 2)
    calls[0].cancel()
    await eventually(lambda: slow.ended == 1)
    assert not calls[1].done()
    slow.stop.set()
    assert await calls[1] == []


async def test_what_may_not_be_asked_twice_goes_on(milvus: tuple[SlowMilvus, str], store: Store) -> None:
    slow, _ = milvus
    call = asyncio.create_task(store.call("create", lists()))
    await eventually(lambda: slow.running == 1)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.3)
    assert slow.ended == 0
    slow.stop.set()
    await eventually(lambda: idle(store))
