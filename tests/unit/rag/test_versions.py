"""Writers, deletions and readers of one document, in many orders, some of which die at any of their calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from genmesh.v1 import vector_search_pb2 as vectors_pb
from genmesh.v1.vector_search_pb2 import Entity

from services.rag import versions
from services.rag.retrieval import SEARCHES
from services.rag.versions import Cleaner, Known, Reading, Row, Rows, Writing, delete, newest, revision_after, row_of
from services.runtime.errors import Aborted
from services.vector_search.store import end_of

DOCUMENT = "d"


class Orders:
    """Lets one actor's call through at a time, in an order by chance; one that dies gets no answer any more."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def turn(self, actor: str) -> None:
        self.waiting[actor] = asyncio.get_running_loop().create_future()
        await self.waiting[actor]

    def start(self, actor: str, work: Awaitable[Any]) -> None:
        self.tasks[actor] = asyncio.ensure_future(work)

    async def run(self, dying: dict[str, int]) -> dict[str, Any]:
        """Until all have ended; ``dying``: at which of its calls an actor dies. What each returned or raised."""
        calls: Counter[str] = Counter()
        while alive := [a for a, task in self.tasks.items() if not task.done() and calls[a] != dying.get(a, -1)]:
            for _ in range(10):
                await asyncio.sleep(0)
            ready = [actor for actor in alive if actor in self.waiting]
            if ready:
                actor = self.random.choice(ready)
                calls[actor] += 1
                if calls[actor] != dying.get(actor, -1):
                    self.waiting.pop(actor).set_result(None)
        ended = {a: task.exception() or task.result() for a, task in self.tasks.items() if task.done()}
        for task in self.tasks.values():
            task.cancel()
        return ended


class Memory:
    """Entities in memory, as the vector search service has them; ``actor`` says whose calls these are."""

    def __init__(self, orders: Orders, actor: str, there: dict[str, Entity]) -> None:
        self.orders, self.actor, self.there = orders, actor, there

    async def Upsert(self, request: vectors_pb.UpsertRequest) -> None:
        await self.orders.turn(self.actor)
        self.there.update({entity.id: entity for entity in request.entities})

    async def Delete(self, request: vectors_pb.DeleteRequest) -> None:
        await self.orders.turn(self.actor)
        for one in request.ids:
            self.there.pop(one, None)

    async def Get(self, request: vectors_pb.GetRequest) -> vectors_pb.GetResponse:
        await self.orders.turn(self.actor)
        chosen = request.ids or sorted(one for one in self.there if one.startswith(request.id_prefix))
        return vectors_pb.GetResponse(entities=[self.there[one] for one in chosen if one in self.there])

    async def GetCollection(self, request: Any) -> vectors_pb.GetCollectionResponse:
        await self.orders.turn(self.actor)
        return vectors_pb.GetCollectionResponse(collection=vectors_pb.Collection(dimension=2))

    async def search(self, *, heads: bool) -> list[vectors_pb.SearchHit]:
        await self.orders.turn(self.actor)
        found = [entity for entity in self.there.values() if heads or not entity.id.endswith("#0")]
        return [vectors_pb.SearchHit(entity=entity) for entity in found]

    def rows(self) -> Rows:
        return Rows(self, "c", dict)


def passages(revision: int, count: int) -> list[Entity]:
    made = [Entity(id=f"{DOCUMENT}#{revision}#{position}") for position in range(count)]
    for position, entity in enumerate(made):
        entity.metadata.update({"_document": DOCUMENT, "_revision": revision, "_position": position})
    return made


async def write(rows: Rows, revision: int, count: int) -> int:
    head, *others = passages(revision, count)
    writing = Writing(rows, DOCUMENT, revision)
    try:
        await writing.begin(2, f"place of {revision}")
        for one in others:
            await writing.add([one])
        await writing.commit(head, count)
    except Aborted:
        await versions.take_back(rows, writing)
        raise
    return revision


async def read(memory: Memory, known: Known, *, heads: bool) -> list[Row] | None:
    """As ``Retriever.search`` does, where position 0 is among the hits, or is not; None where it gave up."""
    reading = Reading(memory.rows(), known, "tenant")
    for _ in range(SEARCHES):
        begun = time.monotonic()
        kept, again = await reading.whole(await memory.search(heads=heads), begun)
        if not again:
            return [row for hit in kept if (row := row_of(hit.entity)) is not None]
    return None


async def write_one(rows: Rows, revision: int) -> int:
    """As a new document of one passage is stored: without an intent."""
    writing = Writing(rows, DOCUMENT, revision)
    try:
        await writing.commit(passages(revision, 1)[0], 1)
    except Aborted:
        assert writing.wrote
        await versions.take_back(rows, writing)
        raise
    return revision


SIZES = {100: 3, 200: 2, 300: 4}  # of the version that is there, and of those that are written


async def history(seed: int, *, dying: str = "", deleted: bool = False) -> tuple[dict[str, Any], dict[str, Entity]]:
    orders, there = Orders(seed), {entity.id: entity for entity in passages(100, SIZES[100])}
    seen: list[tuple[bool, list[Row]]] = []
    known = Known(most=2)

    async def reader(memory: Memory, *, heads: bool) -> None:
        for _ in range(6):
            if (found := await read(memory, known, heads=heads)) is not None:
                seen.append((heads, found))

    work: dict[str, Callable[[Memory], Awaitable[Any]]] = {
        "first": lambda m: write(m.rows(), 200, SIZES[200]),
        "second": lambda m: write(m.rows(), 300, SIZES[300]),
        "reader": lambda m: reader(m, heads=True),
        "reader of parts": lambda m: reader(m, heads=False),
    }
    if deleted:
        work["deletion"] = lambda m: delete(m.rows(), DOCUMENT, "place of a deletion")
    for actor, begin in work.items():
        orders.start(actor, begin(Memory(orders, actor, there)))
    ended = await orders.run({dying: orders.random.randint(1, 12)} if dying else {})
    for heads, found in seen:
        if not (deleted and not found):
            (revision,) = {row.revision for row in found}
            assert sorted(row.position for row in found) == list(range(not heads, SIZES[revision]))
    assert len(seen) > 6
    return ended, there


def cleaned(there: dict[str, Entity]) -> None:
    """What is left once those that died have been cleared up."""

    async def clean() -> None:
        orders = Orders(0)
        cleaner, memory = Cleaner("elsewhere", after=0.0), Memory(orders, "cleaner", there)
        orders.start("cleaner", cleaner.look(memory.rows(), "tenant"))
        await orders.run({})
        for task in cleaner._tasks.values():
            orders.start("cleaner", task)
        await orders.run({})

    asyncio.run(clean())


def versions_of(there: dict[str, Entity]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entity in there.values():
        row = row_of(entity)
        assert row is not None
        found.setdefault(row.revision, []).append(row.position)
    return {revision: sorted(positions) for revision, positions in found.items()}


@pytest.mark.parametrize("seed", range(60))
def test_readers_see_one_version_and_the_writer_that_began_last_wins(seed: int) -> None:
    ended, there = asyncio.run(history(seed))
    assert ended["second"] == 300
    assert ended["first"] == 200 or ended["first"].reason == "DOCUMENT_REPLACED"
    assert versions_of(there) == {300: list(range(SIZES[300]))}


@pytest.mark.parametrize("dying", ["first", "second"])
@pytest.mark.parametrize("seed", range(60))
def test_what_a_writer_that_died_left_behind_is_cleared_up(seed: int, dying: str) -> None:
    ended, there = asyncio.run(history(seed, dying=dying))
    cleaned(there)
    found = versions_of(there)
    (revision,) = found
    assert found == {revision: list(range(SIZES[revision]))}
    done = [one for one in ended.values() if isinstance(one, int)]
    assert revision >= max(done, default=100)
    if dying not in ended:
        assert revision in (100, 200, 300)


@pytest.mark.parametrize("seed", range(40))
def test_writers_of_a_new_document_of_one_passage_leave_one_version(seed: int) -> None:
    there: dict[str, Entity] = {}

    async def race() -> dict[str, Any]:
        orders = Orders(seed)
        for revision in (200, 300, 400):
            memory = Memory(orders, str(revision), there)
            orders.start(
                str(revision), write(memory.rows(), 300, 3) if revision == 300 else write_one(memory.rows(), revision)
            )
        return await orders.run({})

    ended = asyncio.run(race())
    assert ended["400"] == 400
    assert versions_of(there) == {400: [0]}


@pytest.mark.parametrize("dying", ["", "deletion", "first"])
@pytest.mark.parametrize("seed", range(40))
def test_a_deletion_leaves_nothing_or_a_whole_version(seed: int, dying: str) -> None:
    _, there = asyncio.run(history(seed, dying=dying, deleted=True))
    cleaned(there)
    found = versions_of(there)
    assert found in ({}, *({revision: list(range(size))} for revision, size in SIZES.items()))


def test_a_writer_that_still_writes_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as rows of it come; and it is dead at once where another process has its place, or where it was ours."""
    rows = SimpleNamespace(there=1)

    async def beginning(prefix: str) -> Any:
        for _ in range(rows.there):
            yield None, None

    rows.beginning = beginning
    cleaner = Cleaner("here:1", after=10)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seen: dict[str, tuple[int, float]] = {}

    async def dead(process: str, place: str) -> bool:
        intent = Row("i", "d", 1, -1)
        return await cleaner._dead(rows, intent, {"_process": process, "_place": place}, seen)  # type: ignore[arg-type]

    assert not asyncio.run(dead("other", "there:1"))
    now = 109
    assert not asyncio.run(dead("other", "there:1"))
    rows.there = 2
    now = 115
    assert not asyncio.run(dead("other", "there:1"))
    now = 124
    assert not asyncio.run(dead("other", "there:1"))
    now = 126
    assert asyncio.run(dead("other", "there:1"))
    assert asyncio.run(dead("other", "here:1"))
    assert asyncio.run(dead(versions.PROCESS, "there:1"))


def test_a_revision_is_greater_than_those_that_clocks_ahead_gave() -> None:
    ahead = [Row("x", "d", int(2e15), 0)]
    assert revision_after(ahead, time.time()) > 2e15
    assert 0 <= revision_after([], 1.5) - 1_500_000 < 1000
    assert newest([]) == 0


@pytest.mark.parametrize(
    ("metadata", "known"),
    [
        ({"_document": "d", "_revision": 5, "_position": 0}, True),
        ({"_document": "d", "_revision": 5, "_position": 1}, False),
        ({"_document": 5, "_revision": "x", "_position": {}}, False),
        ({}, False),
    ],
)
def test_a_users_own_entities_are_no_versions(metadata: dict[str, Any], known: bool) -> None:
    entity = Entity(id="d#5#0")
    entity.metadata.update(metadata)
    assert (row_of(entity) is not None) == known
    assert set(entity.metadata.fields) == set(metadata)  # looking adds nothing


@pytest.mark.parametrize("prefix", ["a", "a#", "\x01", "z\ud7ff", "a\U0010ffff", "é😀"])
def test_the_end_of_a_prefix(prefix: str) -> None:
    end = end_of(prefix)
    for more in ("", "\0", "#1", "\uffff", "\U0010ffff" * 3):
        assert prefix + more < end
        assert (prefix + more).encode() < end.encode()
    assert end_of("") == end_of("\U0010ffff") == ""
