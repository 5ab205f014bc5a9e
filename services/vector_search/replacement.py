"""All vectors of a collection are replaced, while it serves and is changed (``generations.py``).

What the draft lacks is found by comparing it with the generation that holds, again and again until little is found. Then
changes are closed: each looks whether they are, JUST_KNOWN_SECONDS before it begins at most, and has ended twice
CALL_TIMEOUT_SECONDS after its look at the latest. So after SETTLE_SECONDS none is under way, and what is compared now is the
end. Whoever dies meanwhile leaves a draft that the next one goes on with, and marks that end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pymilvus import MilvusClient

from services.runtime import deadline
from services.runtime.deadline import left
from services.runtime.errors import Aborted
from services.vector_search import generations
from services.vector_search.filters import literal
from services.vector_search.generations import CALL_TIMEOUT_SECONDS, CLOSED, DRAFT, REPLACED, REVISION, Shape
from services.vector_search.store import ORDERED, Store, among, block_of, fields_of, query, with_words

T = TypeVar("T")
Row = dict[str, Any]
BATCH, BATCH_BYTES, PAGE = 64, 4 * 2**20, 1000
# A collection that changes all the time is closed after so many comparisons whatever the last one found.
MOST_COMPARISONS = 10
SETTLE_SECONDS = 2 * CALL_TIMEOUT_SECONDS + 5.0
# Marks: for how long each is made, and how old one may be before it is made again. Clocks may differ by the rest. A batch's
# vectors have to come in between, and no mark is made meanwhile: a caller that hangs is to lose its place.
MARK_SECONDS, MARK_AGE_SECONDS, CLOCKS_SECONDS = 60.0, 10.0, 10.0
LEAVE_SECONDS, TURN_SECONDS, DROP_SECONDS = 10.0, 180.0, 120.0


class Replacement:
    """One caller's. ``done`` of ``total`` rows have new vectors; ``taken`` of them by this caller."""

    def __init__(self, store: Store, tenant: str, name: str, revision: str, dimension: int, analyzer: str = "") -> None:
        self.store, self.tenant, self.name = store, tenant, name
        self.revision, self.dimension, self.analyzer = revision, dimension, analyzer
        self.done = self.total = self.taken = 0
        self._me = uuid.uuid4().hex
        self._old: Shape | None = None
        self._new = ""
        self._batch = max(1, min(BATCH, BATCH_BYTES // (4 * dimension)))
        self._marked = 0.0
        self._closing = False
        self._turning: asyncio.Task[None] | None = None

    async def begin(self) -> bool:
        """Take the draft, or make it; False where the collection's vectors are of the model already."""
        self._old = old = (await self.store.describe(self.tenant, self.name)).shape
        wanted = self.analyzer or old.analyzer
        self.analyzer = await self._ask("describe", lambda c: generations.analyzer_for(c, wanted))
        if self._as_wanted(old):
            await self._ask("drop", self._clear)
            return False
        await self._ask("create", self._take)
        await asyncio.sleep(0.2)  # of two that took it at once the later one has it
        if not await self._ask("describe", self._mine):
            raise _running()
        self.done = await self._ask("query", lambda c: generations.count(c, self._new))
        self.total = await self._ask("query", lambda c: generations.count(c, old.physical))
        return True

    def _others(self, client: MilvusClient) -> dict[str, tuple[Shape, dict[str, str]]]:
        """The drafts that nobody fills; REPLACEMENT_RUNNING where somebody does, died at it, or has just turned to one."""
        assert self._old is not None
        old, found, replaced, there = self._old.physical, dict[str, tuple[Shape, dict[str, str]]](), list[str](), False
        for name in generations.generations(client, generations.first_of(old)):
            said = generations.properties_of(client, name)
            if said is None:
                continue
            owner, _, until = said[1].get(DRAFT, "").partition(" ")
            if REPLACED in said[1]:
                replaced.append(name)
            elif name == old:
                there = True
            elif not owner or (owner != self._me and float(until) > time.time()):
                raise _running(until)
            else:
                found[name] = said
        if not there:
            raise _running()
        for name in replaced:  # the turn to the one that holds was interrupted
            generations.mark(client, old, {DRAFT: None})
            generations.drop(client, name, DROP_SECONDS)
        return found

    def _as_wanted(self, shape: Shape) -> bool:
        return (shape.revision, shape.dimension, shape.analyzer) == (self.revision, self.dimension, self.analyzer)

    def _clear(self, client: MilvusClient) -> None:
        with contextlib.suppress(Aborted):
            for name in self._others(client):
                generations.drop(client, name)

    def _take(self, client: MilvusClient) -> None:
        assert self._old is not None
        for name, (shape, _) in self._others(client).items():
            if self._as_wanted(shape) and not self._new:
                self._new = name
            else:
                generations.drop(client, name)
        if not self._new:
            self._new = generations.following(self._old.physical)
            properties = {
                generations.DESCRIPTION: self._old.description, generations.METRIC: self._old.metric,
                generations.MAKER: self._me, REVISION: self.revision, DRAFT: self._mark(),
                generations.ANALYZER: self.analyzer,
            }  # fmt: skip
            generations.make(client, self._new, self.dimension, properties)
        generations.mark(client, self._new, {DRAFT: self._mark()})
        generations.ready(client, self.shape)
        self._marked = time.time()

    def _mark(self) -> str:
        return f"{self._me} {time.time() + MARK_SECONDS}"

    def _mine(self, client: MilvusClient) -> bool:
        found = generations.properties_of(client, self._new)
        return found is not None and found[1].get(DRAFT, "").startswith(self._me)

    async def _ask(self, operation: str, work: Callable[[MilvusClient], T]) -> T:
        return await self.store.call(operation, work)

    async def _keep(self) -> None:
        """Renew the marks; REPLACEMENT_INTERRUPTED where another has taken the draft, or changes may have been let in."""
        if time.time() - self._marked >= MARK_AGE_SECONDS:
            if not await self._ask("describe", self._mine):
                raise _interrupted()
            await self._renew()

    async def _renew(self) -> None:
        old, before, now = self._old, self._marked, time.time()
        assert old is not None
        await self._ask("alter", lambda c: generations.mark(c, self._new, {DRAFT: self._mark()}))
        if self._closing:
            await self._ask("alter", lambda c: generations.mark(c, old.physical, {CLOSED: now + MARK_SECONDS}))
            if time.time() - before > MARK_SECONDS - CLOCKS_SECONDS:
                raise _interrupted()
        self._marked = now

    async def missing(self) -> AsyncGenerator[list[Row], None]:
        """Rows that need a new vector, in batches; each is given to ``put`` before the next comes. Changes wait in the end."""
        for _ in range(MOST_COMPARISONS):
            found = 0
            async for batch in self._compared():
                found += len(batch)
                yield batch
            if found <= self._batch:
                break
        self._closing, self._marked = True, time.time()
        await self._renew()
        settled = time.monotonic() + SETTLE_SECONDS
        while (rest := settled - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 1.0))
            await self._keep()
        async for batch in self._compared():
            yield batch

    async def _compared(self) -> AsyncGenerator[list[Row], None]:
        """Delete what the draft has and the collection has not; what it lacks, or has otherwise."""
        after: str | None = ""
        while after is not None:
            await self._keep()
            after = await self._ask("delete", partial(self._without, after=after))
        after, batch = "", list[Row]()
        while after is not None:
            await self._keep()
            rows, after = await self._ask("query", partial(self._lacking, after=after))
            for row in rows:
                batch.append(row)
                if len(batch) == self._batch:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _without(self, client: MilvusClient, after: str) -> str | None:
        """Delete rows of the draft that are gone, of one page; the last id looked at, None at the end."""
        assert self._old is not None
        ids = [row["id"] for row in query(client, self._new, f"id > {literal(after)}", ["id"], limit=PAGE, **ORDERED)]
        if not ids:
            return None
        there = {row["id"] for row in query(client, self._old.physical, among(ids), ["id"])}
        if gone := [one for one in ids if one not in there]:
            client.delete(self._new, filter=among(gone), timeout=left(CALL_TIMEOUT_SECONDS))
            self.done -= len(gone)
        return ids[-1] if len(ids) == PAGE else None

    def _lacking(self, client: MilvusClient, after: str) -> tuple[list[Row], str | None]:
        """Of one page the rows that the draft lacks or has otherwise; and the last id looked at, None at the end."""
        assert self._old is not None
        size, fields = block_of(0), fields_of(self._old, vectors=False)
        rows = query(client, self._old.physical, f"id > {literal(after)}", fields, limit=size, **ORDERED)
        if not rows:
            return [], None
        known = {row["id"]: row for row in query(client, self._new, among([row["id"] for row in rows]), fields)}
        return [row for row in rows if known.get(row["id"]) != row], rows[-1]["id"] if len(rows) == size else None

    async def put(self, batch: Sequence[Row], vectors: Sequence[Sequence[float]], contexts: Sequence[str] = ()) -> None:
        """Store rows with their new vectors; a row keeps the context that it has."""
        await self._keep()
        shape = self.shape
        rows = [
            {"context": context, **row, "vector": list(vector)}
            for row, vector, context in zip(batch, vectors, contexts or [""] * len(batch), strict=True)
        ]
        await self._ask(
            "upsert", lambda c: c.upsert(shape.physical, with_words(shape, rows), timeout=left(CALL_TIMEOUT_SECONDS))
        )
        self.store.changed(self._new)
        self.taken += len(rows)
        self.done = min(self.done + len(rows), self.total)

    async def end(self) -> None:
        """Turn to the new vectors, also where the caller leaves meanwhile."""
        self._turning = asyncio.ensure_future(self._turn())
        await asyncio.shield(self._turning)

    async def _turn(self) -> None:
        """What is left where it is interrupted is cleared up by the next replacement."""
        old, base = self._old, self.store.physical(self.tenant, self.name)
        assert old is not None
        deadline.enter(TURN_SECONDS)
        self._marked = min(self._marked, time.time() - MARK_AGE_SECONDS)
        await self._keep()
        # Readers may know the old one for KNOWN_SECONDS: until it is dropped, or forgotten, nothing changes.
        closed = time.time() + MARK_SECONDS
        await self._ask("alter", lambda c: generations.mark(c, self._new, {CLOSED: closed}))
        new, self._new = (
            self._new,
            "",
        )  # from here on the marks end by themselves only: the next one may take effect late
        await self._ask("alter", lambda c: generations.mark(c, old.physical, {REPLACED: 1}))
        await self._ask("alter", lambda c: generations.mark(c, new, {DRAFT: None}))
        await self._ask("drop", lambda c: generations.drop(c, old.physical, DROP_SECONDS))
        await self._ask("alter", lambda c: generations.mark(c, new, {CLOSED: None}))
        self.store.forget(base)

    @property
    def shape(self) -> Shape:
        """Of the new vectors."""
        assert self._old is not None
        return replace(self._old, physical=self._new, dimension=self.dimension, analyzer=self.analyzer)

    async def leave(self) -> None:
        """Let another go on at once, and changes too, where this caller has not come to the end. To be a task of its own: the
        caller may be gone, and its deadline over."""
        if self._turning is not None:
            await asyncio.gather(self._turning, return_exceptions=True)
        old = self._old
        if not self._new or old is None:
            return
        deadline.enter(LEAVE_SECONDS)
        with contextlib.suppress(Exception):  # the marks end by themselves
            if await self._ask("describe", self._mine):
                await self._ask("alter", lambda c: generations.mark(c, self._new, {DRAFT: f"{self._me} 0"}))
                if self._closing:
                    await self._ask("alter", lambda c: generations.mark(c, old.physical, {CLOSED: None}))


def _interrupted() -> Aborted:
    text = "collection: another call may have gone on with this one's work, or it took too long"
    return Aborted(text, reason="REPLACEMENT_INTERRUPTED", metadata={"field": "collection"}, retry_after_seconds=1.0)


def _running(until: str = "") -> Aborted:
    """``until``: when the other call's mark expires, in seconds since 1970."""
    text = "collection: another call is replacing its vectors, or was killed less than a minute ago"
    left = float(until) - time.time() if until else 10.0
    return Aborted(
        text, reason="REPLACEMENT_RUNNING", metadata={"field": "collection"}, retry_after_seconds=max(1.0, left)
    )
