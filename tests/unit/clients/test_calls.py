"""Calls of both clients that end before a server has them, and calls of a client that is closed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from genmesh import Client
from genmesh.aio import Client as AsyncClient
from genmesh.errors import Cancelled, FailedPrecondition, InvalidArgument

NOWHERE = "127.0.0.1:1"
BAD: list[Callable[[Any], Any]] = [
    lambda c: c.tokenization.Count([]),
    lambda c: c.tokenization.Count({"texts": [b"x"]}),
    lambda c: c.tokenization.Count({"texts": ["x"]}, timeout=float("inf")),
    lambda c: c.tokenization.Count({"texts": ["x"]}, metadata={"k": "v"}),
    lambda c: c.generation.StreamGenerate({"prompt": "x"}, metadata=[("Upper", "x")]),
    lambda c: c.rag.Ingest(None),
    lambda c: c.rag.Ingest({"document": {}}),
]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(NOWHERE) as found:
        yield found


@pytest.fixture
async def async_client() -> AsyncIterator[AsyncClient]:
    async with AsyncClient(NOWHERE) as found:
        yield found


@pytest.mark.parametrize("call", BAD)
async def test_what_cannot_be_sent_is_an_invalid_argument(client, async_client, call) -> None:
    for each in (client, async_client):
        with pytest.raises(InvalidArgument) as failure:
            call(each)
        assert failure.value.reason == "INVALID_REQUEST"
        assert failure.value.field_violations


def test_a_closed_client(client) -> None:
    client.close()
    for call in (
        lambda: client.tokenization.Count({"texts": ["x"]}),
        lambda: client.generation.StreamGenerate({"prompt": "x"}),
        lambda: client.rag.Ingest([]),
    ):
        with pytest.raises(FailedPrecondition) as failure:
            call()
        assert failure.value.reason == "CLIENT_CLOSED"


async def test_a_closed_async_client(async_client) -> None:
    await async_client.close()
    with pytest.raises(FailedPrecondition) as failure:
        await async_client.tokenization.Count({"texts": ["x"]})
    assert failure.value.reason == "CLIENT_CLOSED"
    for call in (async_client.generation.StreamGenerate, async_client.rag.Ingest):
        with pytest.raises(FailedPrecondition):
            call([] if call is async_client.rag.Ingest else {"prompt": "x"})


async def test_a_call_that_its_client_ends_is_not_taken_for_a_cancelled_task(async_client) -> None:
    running = async_client.generation.StreamGenerate({"prompt": "x"})
    running.cancel()
    with pytest.raises(Cancelled):
        async for _ in running:
            pass


async def test_a_cancelled_task_stays_one(async_client) -> None:
    async def wait() -> None:
        async for _ in async_client.generation.StreamGenerate({"prompt": "x"}):
            pass

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
