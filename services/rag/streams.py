"""Many documents at the same time, their events in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from genmesh.v1 import rag_pb2 as pb

Events = AsyncGenerator[pb.IngestResponse, None]
# Documents that are stored at the same time, and characters of all their texts, if it is more than one document.
AT_ONCE, CHARACTERS_AT_ONCE = 64, 2**19
# Documents whose events have not been sent yet.
MOST_UNSENT = 256


class Stored:
    """A document that is being stored. Its events can be read while they come."""

    def __init__(self, document: pb.Document, store: Callable[[pb.Document], Events]) -> None:
        self.id, self.size = document.id, len(document.text)
        self._events: asyncio.Queue[pb.IngestResponse | None] = asyncio.Queue()
        self.succeeded = False
        self.task = asyncio.create_task(self._run(store(document)))

    async def _run(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._events.put_nowait(event)
                    self.succeeded |= event.HasField("ingested")
        finally:
            self._events.put_nowait(None)

    async def events(self) -> Events:
        while (event := await self._events.get()) is not None:
            yield event
        await self.task


class Room:
    """Decides when the next document may begin: not beside another one of the same id, whose version it replaces; and alone until
    one has been stored, as the first makes the collection."""

    def __init__(self) -> None:
        self._running = set[Stored]()
        self._changed = asyncio.Event()
        self._opened = False

    async def wait(self, document: pb.Document) -> None:
        while not self._fits(document):
            self._changed.clear()
            await self._changed.wait()

    def take(self, one: Stored) -> None:
        self._running.add(one)
        one.task.add_done_callback(lambda _: self._leave(one))

    def _fits(self, document: pb.Document) -> bool:
        if not self._running:
            return True
        size = len(document.text) + sum(one.size for one in self._running)
        return (
            self._opened and len(self._running) < AT_ONCE and size <= CHARACTERS_AT_ONCE
            and all(one.id != document.id for one in self._running)
        )  # fmt: skip

    def _leave(self, one: Stored) -> None:
        self._running.discard(one)
        self._opened |= one.succeeded
        self._changed.set()


async def in_order(documents: AsyncIterator[pb.Document], store: Callable[[pb.Document], Events]) -> Events:
    """The events of ``store`` for each document, in the order of the documents; an error ends all of them."""
    unsent: asyncio.Queue[Stored | Exception | None] = asyncio.Queue(MOST_UNSENT)
    tasks, room = set[asyncio.Task[None]](), Room()

    async def begin() -> None:
        end: Exception | None = None
        try:
            async for document in documents:
                await room.wait(document)
                one = Stored(document, store)
                tasks.add(one.task)
                one.task.add_done_callback(tasks.discard)
                room.take(one)
                await unsent.put(one)
        except Exception as failure:
            end = failure
        await unsent.put(end)

    tasks.add(asyncio.create_task(begin()))
    try:
        while isinstance(one := await unsent.get(), Stored):
            async with aclosing(one.events()) as events:
                async for event in events:
                    yield event
        if one is not None:
            raise one
    finally:
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
