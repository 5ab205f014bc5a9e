"""Versions of a document: readers see one of them whole, and of several writers the one that began last wins.

Milvus has neither transactions nor compare-and-set, so nothing here relies on either:

- Each ingestion has a revision, the time when it began in microseconds; a passage's id is "document#revision#position".
  The passage at position 0 is written last: from then on the version is committed.
- Of several committed versions the one with the greatest revision holds, in whatever order they were committed. Older ones
  are deleted, their position 0 first.
- A writer's first row is its intent, "\\x01document#revision" (no document's id has a control character), and it is deleted
  last. It names what a process that died left behind. What is not committed and has an intent is only touched by its
  writer, or once that is dead.
- A writer that finds a greater revision committed, or its intent gone, takes its rows back.

Readers ask for position 0 of each version that a search finds, and search again where one is not committed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from genmesh.v1 import vector_search_pb2
from genmesh.v1.vector_search_pb2 import Entity, SearchHit
from google.protobuf.struct_pb2 import Struct, Value

from services.runtime.errors import Aborted, GenmeshError, Unavailable, calling

log = logging.getLogger(__name__)
PAGE = 1000  # entities of one request
INTENT = "\x01"
PROCESS = uuid.uuid4().hex
NOTHING = Value()
# For so long after its commit a version may not have been whole when a search began; more than clocks differ.
SETTLED_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """What an entity is to its document."""

    id: str
    document: str
    revision: int
    position: int  # -1: an intent

    @property
    def head(self) -> str:
        """The id of its version's position 0."""
        return passage_id(self.document, self.revision, 0)


def passage_id(document: str, revision: int, position: int) -> str:
    return f"{document}#{revision}#{position}"


def row_of(entity: Entity) -> Row | None:
    """None for entities that Ingest did not make."""
    get = entity.metadata.fields.get
    document, revision = get("_document", NOTHING).string_value, int(get("_revision", NOTHING).number_value)
    position = get("_position")
    row = Row(entity.id, document, revision, -1 if position is None else int(position.number_value))
    made = f"{INTENT}{document}#{revision}" if position is None else passage_id(document, revision, row.position)
    return row if entity.id == made else None


def is_intent(entity: Entity) -> bool:
    row = row_of(entity)
    return row is not None and row.position < 0


def place_holder(dimension: int) -> list[float]:
    """The vector of an intent, which stands for nothing."""
    return [1.0] + [0.0] * (dimension - 1)


def newest(rows: Iterable[Row]) -> int:
    """The revision of the version that holds; 0 where none is committed."""
    return max((row.revision for row in rows if row.position == 0), default=0)


def superseded(rows: Sequence[Row], revision: int) -> list[Row]:
    """Passages of versions before a revision, but for those that are still being written."""
    writing = {row.revision for row in rows if row.position < 0} - {row.revision for row in rows if row.position == 0}
    return [row for row in rows if row.position >= 0 and row.revision < revision and row.revision not in writing]


def revision_after(rows: Iterable[Row], begun: float) -> int:
    """The revision of who began then (seconds since 1970), greater than those there are: clocks differ. Its last three digits
    are by chance, as two may begin at once."""
    return max(int(begun * 1e6), max((row.revision + 1 for row in rows), default=0)) + secrets.randbelow(1000)


class Rows:
    """The rows of documents in one collection. ``arguments`` makes a call's metadata and deadline; ``model_revision``: of what
    makes the vectors, where that is known."""

    def __init__(self, vectors: Any, collection: str, arguments: Callable[[], dict[str, Any]]) -> None:
        self.vectors, self.collection, self.arguments = vectors, collection, arguments
        self.model_revision = ""

    async def put(self, entities: Sequence[Entity]) -> None:
        request = vector_search_pb2.UpsertRequest(
            collection=self.collection, entities=entities, model_revision=self.model_revision
        )
        with calling("vector_search", "Upsert"):
            await self.vectors.Upsert(request, **self.arguments())

    async def delete(self, rows: Iterable[Row]) -> None:
        """Heads before the others, so that no reader takes a part of a version."""
        heads, others = list[str](), list[str]()
        for row in rows:
            (others if row.position else heads).append(row.id)
        for ids in (heads, others):
            for start in range(0, len(ids), PAGE):
                request = vector_search_pb2.DeleteRequest(collection=self.collection, ids=ids[start : start + PAGE])
                with calling("vector_search", "Delete"):
                    await self.vectors.Delete(request, **self.arguments())

    async def get(self, ids: Sequence[str]) -> list[Entity]:
        """Those of the ids that are there."""
        found: list[Entity] = []
        for start in range(0, len(ids), PAGE):
            request = vector_search_pb2.GetRequest(collection=self.collection, ids=ids[start : start + PAGE])
            with calling("vector_search", "Get"):
                answer = await self.vectors.Get(request, **self.arguments())
            found += answer.entities
        return found

    async def beginning(self, prefix: str) -> AsyncIterator[tuple[Row, Struct]]:
        """The rows whose ids begin so, with their metadata."""
        request = vector_search_pb2.GetRequest(collection=self.collection, id_prefix=prefix, page_size=PAGE)
        while True:
            with calling("vector_search", "Get"):
                answer = await self.vectors.Get(request, **self.arguments())
            for entity in answer.entities:
                if (row := row_of(entity)) is not None:
                    yield row, entity.metadata
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def of(self, document: str) -> list[Row]:
        """All rows of a document.

        Passages without an intent and without position 0 are what a deletion left: the intent is there before a passage, and
        position 0 before the intent goes. So they are asked for in this order, and again where a version was committed in
        between, as passages may have come, too."""
        while True:
            # Those of a document "a#b" begin as those of "a" do.
            found = [row async for row, _ in self.beginning(f"{document}#") if row.document == document]
            found += [row async for row, _ in self.beginning(f"{INTENT}{document}#") if row.document == document]
            known = {row.revision for row in found if row.position <= 0}
            unknown = sorted({row.head for row in found if row.revision not in known})
            if not await self.get(unknown):
                return found


class Writing:
    """One writer of a document."""

    def __init__(self, rows: Rows, document: str, revision: int) -> None:
        self.rows, self.document, self.revision = rows, document, revision
        self.intent = Row(f"{INTENT}{document}#{revision}", document, revision, -1)
        self.wrote = False  # rows of it may be there
        self.begun = False  # among them the intent
        self.doubtful = False  # so may position 0, though nothing was heard of it

    async def begin(self, dimension: int, place: str, *, deletes: bool = False) -> None:
        self.begun = self.wrote = True
        entity = Entity(id=self.intent.id, vector=place_holder(dimension))
        entity.metadata.update({
            "_document": self.document, "_revision": self.revision, "_place": place, "_process": PROCESS,
            "_deletes": deletes,
        })  # fmt: skip
        await self.rows.put([entity])

    async def add(self, entities: Sequence[Entity]) -> None:
        """Store passages other than position 0."""
        if entities:
            await self._check()
            await self.rows.put(entities)

    async def commit(self, head: Entity, passages: int) -> None:
        """Write position 0 and delete older versions; Aborted where a later writer was faster."""
        await self._check()
        head.metadata.update({"_committed": time.time()})
        self.doubtful = self.wrote = True
        await self.rows.put([head])
        self.doubtful = False
        rows = await self.rows.of(self.document)
        mine = [row for row in rows if row.revision == self.revision]
        if newest(rows) > self.revision or len(mine) != passages + self.begun:
            raise _overtaken()
        await self.rows.delete(superseded(rows, self.revision))
        if self.begun:
            await self.rows.delete([self.intent])

    async def _check(self) -> None:
        if self.begun and not await self.rows.get([self.intent.id]):
            raise _overtaken()


def _overtaken() -> Aborted:
    text = "a later ingestion, or the deletion, of the same document overtook this one"
    return Aborted(text, reason="DOCUMENT_REPLACED")


async def take_back(rows: Rows, writing: Writing) -> None:
    """Delete what a writer wrote that failed. Its intent stays where position 0 may yet appear."""
    found = await rows.of(writing.document)
    await rows.delete(row for row in found if row.revision == writing.revision and row.position >= 0)
    if not writing.doubtful:
        await rows.delete([writing.intent])


async def delete(rows: Rows, document: str, place: str) -> int:
    """Delete a document; how many passages it had, 0 where it was not there. An ingestion that has begun goes on."""
    found = await rows.of(document)
    holds = newest(found)
    if not holds:
        return 0
    writing = Writing(rows, document, revision_after(found, time.time()))
    count = sum(row.revision == holds and row.position >= 0 for row in found)
    if count > 1:
        request = vector_search_pb2.GetCollectionRequest(collection=rows.collection)
        with calling("vector_search", "GetCollection"):
            answer = await rows.vectors.GetCollection(request, **rows.arguments())
        rows.model_revision = answer.collection.model_revision
        await writing.begin(answer.collection.dimension, place, deletes=True)
    await rows.delete(superseded(found, writing.revision))
    if writing.begun:
        await rows.delete([writing.intent])
    return count


class Known:
    """Heads (ids of position 0) that were seen, and since when (monotonic); all are forgotten once there are ``most``."""

    def __init__(self, most: int = 20_000) -> None:
        self.most = most
        self._since: dict[tuple[str, str, str], float] = {}

    def since(self, tenant: str, collection: str, head: str) -> float:
        return self._since.get((tenant, collection, head), math.inf)

    def add(self, tenant: str, collection: str, heads: Iterable[str]) -> None:
        if len(self._since) > self.most:
            self._since.clear()
        now = time.monotonic()
        for head in heads:
            self._since.setdefault((tenant, collection, head), now)


class Reading:
    """One question's look at documents, over one search or more."""

    def __init__(self, rows: Rows, known: Known, tenant: str) -> None:
        self.rows, self.known, self.tenant = rows, known, tenant
        self._gone: set[str] = set()  # heads that were not there, of documents without any

    async def whole(self, hits: Sequence[SearchHit], begun: float) -> tuple[list[SearchHit], bool]:
        """Of a search's hits those of versions that hold; and whether another search may see more of these documents, as a
        version was committed or deleted meanwhile. ``begun``: when the search was (monotonic)."""
        found = [(hit, row_of(hit.entity)) for hit in hits]
        rows = [row for _, row in found if row is not None]
        seen = {row.id for row in rows if row.position == 0}
        asked = list({row.head for row in rows if row.position > 0} - seen)
        entities = await self.rows.get(asked)
        fresh = any(
            time.time() - one.metadata.fields.get("_committed", NOTHING).number_value < SETTLED_SECONDS
            and self.known.since(self.tenant, self.rows.collection, one.id) > begun
            for one in entities
        )
        committed = seen.union(one.id for one in entities)
        holds: dict[str, int] = {}
        for row in rows:
            if row.head in committed:
                holds[row.document] = max(row.revision, holds.get(row.document, 0))
        gone = {row.head for row in rows if row.position > 0 and row.document not in holds} - self._gone
        self.known.add(self.tenant, self.rows.collection, committed)
        self._gone |= gone
        kept = [
            hit for hit, row in found if row is None or (row.position >= 0 and row.revision == holds.get(row.document))
        ]
        return kept, fresh or bool(gone)


class Cleaner:
    """Ends what writers that died had begun: forward where they had committed, else back.

    A writer is dead if it was of this process and is not among ``live``, if another process has taken its place, or if nothing
    of it came for ``after`` seconds.
    """

    def __init__(self, place: str, after: float) -> None:
        self.place, self.after = place, after
        self.live: set[str] = set()  # intents of this process's writers
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def look(self, rows: Rows, tenant: str) -> None:
        """Look after a collection. Where writers are left that may be dead, a task goes on looking until there are none."""
        key, seen = (tenant, rows.collection), dict[str, tuple[int, float]]()
        if await self._left(rows, seen) and key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._go_on(rows, seen))
            self._tasks[key].add_done_callback(lambda _: self._tasks.pop(key, None))

    def forget(self, intent: Row, *, doubtful: bool) -> None:
        """A writer of this process has ended. Where a write may yet come it is not dead at once."""
        if doubtful:
            asyncio.get_running_loop().call_later(self.after, self.live.discard, intent.id)
        else:
            self.live.discard(intent.id)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _go_on(self, rows: Rows, seen: dict[str, tuple[int, float]]) -> None:
        left = True
        while left:
            await asyncio.sleep(self.after / 4)
            left = await self._left(rows, seen)

    async def _left(self, rows: Rows, seen: dict[str, tuple[int, float]]) -> bool:
        """End those that are dead; whether others may be left. ``seen``: how many rows each had, and since when."""
        try:
            return await self._end_dead(rows, seen)
        except Unavailable:
            return True
        except GenmeshError as failure:  # no such collection, an identity too old
            log.info("no look after the documents of %s: %s", rows.collection, failure)
            return False

    async def _end_dead(self, rows: Rows, seen: dict[str, tuple[int, float]]) -> bool:
        left = False
        async for intent, metadata in rows.beginning(INTENT):
            if intent.id in self.live and metadata["_process"] == PROCESS:
                continue
            if not await self._dead(rows, intent, metadata, seen):
                left = True
                continue
            log.warning(
                "a writer of document %r left revision %d behind; it is cleared up", intent.document, intent.revision
            )
            await finish(rows, intent, deletes=bool(metadata["_deletes"]))
        return left

    async def _dead(self, rows: Rows, intent: Row, metadata: Struct, seen: dict[str, tuple[int, float]]) -> bool:
        if metadata["_process"] == PROCESS or metadata["_place"] == self.place:
            return True
        there = sum([1 async for _ in rows.beginning(f"{intent.document}#{intent.revision}#")])
        count, since = seen.get(intent.id, (-1, 0.0))
        if count != there:
            seen[intent.id] = there, time.monotonic()
            return False
        return time.monotonic() - since >= self.after


async def finish(rows: Rows, intent: Row, *, deletes: bool) -> None:
    """End what a writer that is dead had begun."""
    found = await rows.of(intent.document)
    mine = [row for row in found if row.revision == intent.revision and row.position >= 0]
    if deletes:
        mine = superseded(found, intent.revision)
    elif any(row.position == 0 for row in mine):
        mine = superseded(found, newest(found))
    await rows.delete(mine)
    await rows.delete([intent])
