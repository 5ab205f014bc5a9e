"""Documents of a stream: at the same time, reported in order, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import pytest
from genmesh.v1 import rag_pb2 as pb

from services.rag import streams
from services.rag.streams import in_order


class Storing:
    """Stores documents as told: ``holds`` those whose ids are in it until they are let go."""

    def __init__(self, *holds: str, fails: str = "", ends: str = "") -> None:
        self.held = {name: asyncio.Event() for name in holds}
        self.fails, self.ends = fails, ends
        self.running, self.most, self.begun, self.cancelled = list[str](), 0, list[str](), list[str]()

    async def store(self, document: pb.Document) -> AsyncGenerator[pb.IngestResponse, None]:
        self.begun.append(document.id)
        self.running.append(document.id)
        self.most = max(self.most, len(self.running))
        try:
            yield pb.IngestResponse(progress={"document_id": document.id})
            await asyncio.sleep(0)
            if document.id in self.held:
                await self.held[document.id].wait()
            if document.id == self.ends:
                raise RuntimeError(document.id)
            if document.id == self.fails:
                yield pb.IngestResponse(failed={"document_id": document.id})
            else:
                yield pb.IngestResponse(ingested={"document_id": document.id})
        except asyncio.CancelledError:
            self.cancelled.append(document.id)
            raise
        finally:
            self.running.remove(document.id)


async def documents(*names: str, text: str = "x") -> AsyncIterator[pb.Document]:
    for name in names:
        yield pb.Document(id=name, text=text)


async def eventually(true: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def into(found: list[str], events: AsyncGenerator[pb.IngestResponse, None]) -> None:
    async for event in events:
        if event.HasField("ingested"):
            found.append(event.ingested.document_id)


async def outcomes(events: AsyncGenerator[pb.IngestResponse, None]) -> list[str]:
    found = [event async for event in events]
    return [e.ingested.document_id or f"{e.failed.document_id} failed" for e in found if not e.HasField("progress")]


async def test_events_come_in_the_order_of_the_documents() -> None:
    storing = Storing("b")
    task = asyncio.create_task(outcomes(in_order(documents(*"abcdefg"), storing.store)))
    await eventually(lambda: storing.running == ["b"] and len(storing.begun) == 7)
    storing.held["b"].set()
    assert await task == list("abcdefg")


async def test_so_many_at_once_and_no_more() -> None:
    names = [f"d{i}" for i in range(200)]
    storing = Storing(*names[1:])
    task = asyncio.create_task(outcomes(in_order(documents(*names), storing.store)))
    await eventually(lambda: len(storing.running) == streams.AT_ONCE)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (len(storing.begun), storing.most) == (streams.AT_ONCE + 1, streams.AT_ONCE)
    for event in storing.held.values():
        event.set()
    assert await task == names
    assert storing.most == streams.AT_ONCE


async def test_large_ones_alone() -> None:
    names = [f"d{i}" for i in range(9)]
    storing = Storing()
    text = "x" * (streams.CHARACTERS_AT_ONCE // 2 + 1)
    assert await outcomes(in_order(documents(*names, text=text), storing.store)) == names
    assert storing.most == 1


async def test_the_first_alone_until_one_is_stored() -> None:
    storing = Storing("b", fails="a")
    task = asyncio.create_task(outcomes(in_order(documents(*"abcd"), storing.store)))
    await eventually(lambda: storing.running == ["b"])
    for _ in range(100):
        await asyncio.sleep(0)
    assert storing.begun == ["a", "b"]
    storing.held["b"].set()
    assert await task == ["a failed", "b", "c", "d"]


async def test_a_document_waits_for_its_own_version_before() -> None:
    storing = Storing("b")
    task = asyncio.create_task(outcomes(in_order(documents("a", "b", "c", "b", "d"), storing.store)))
    await eventually(lambda: storing.running == ["b"])
    for _ in range(100):
        await asyncio.sleep(0)
    assert storing.begun == ["a", "b", "c"]
    storing.held["b"].set()
    assert await task == ["a", "b", "c", "b", "d"]


async def test_an_error_ends_all_after_those_before_it() -> None:
    storing = Storing("d", ends="c")
    found = list[str]()
    with pytest.raises(RuntimeError, match="c"):
        await into(found, in_order(documents(*"abcdef"), storing.store))
    assert found == ["a", "b"]
    assert (storing.cancelled, storing.running) == (["d"], [])


async def test_an_error_of_the_stream_comes_after_its_documents() -> None:
    async def cut() -> AsyncIterator[pb.Document]:
        async for document in documents("a", "b"):
            yield document
        raise ValueError("cut")

    found = list[str]()
    with pytest.raises(ValueError, match="cut"):
        await into(found, in_order(cut(), Storing().store))
    assert found == ["a", "b"]


@pytest.mark.parametrize("unsent", [1, 256])
async def test_who_leaves_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch, unsent: int) -> None:
    monkeypatch.setattr(streams, "MOST_UNSENT", unsent)
    storing = Storing("b")
    async with aclosing(in_order(documents(*(f"d{i}" for i in range(9)), "b", *"cde"), storing.store)) as events:
        async for event in events:
            if event.ingested.document_id == "d8":
                break
    assert storing.running == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_reader_that_waits_holds_up_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_UNSENT", 3)
    storing = Storing()
    async with aclosing(in_order(documents(*(f"d{i}" for i in range(50))), storing.store)) as events:
        await anext(events)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(storing.begun) <= 5
