"""Milvus, one physical collection for each tenant's collection (two while its vectors are replaced: ``generations.py``).

The physical name starts with a hash of the tenant, so no request can name another tenant's
collection. What Milvus Lite does not keep (descriptions) stands in the collection's properties.
Calls run on a bounded pool of threads: what pymilvus does with a large request before it sends it, also in its asynchronous
client, would hold up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import grpc
import numpy as np
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from services.runtime import tracing
from services.runtime.deadline import left
from services.runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    GenmeshError,
    Internal,
    NotFound,
    Unavailable,
    invalid,
)
from services.runtime.metrics import VectorSearch
from services.vector_search import analysis, generations, leaving
from services.vector_search.filters import literal
from services.vector_search.generations import CALL_TIMEOUT_SECONDS, CONNECT_FAILED, NOT_FOUND, NOT_LOADED, Shape

log = logging.getLogger(__name__)
T = TypeVar("T")
Found = list[dict[str, Any]]  # a query's hits: "id", "distance" and "entity"
THREADS = 16
# How long what is known of a collection is taken as it is; and where another replica's change of it would matter.
KNOWN_SECONDS, JUST_KNOWN_SECONDS = 10.0, 0.05
# After a collection was bound to a model: by then another replica that saw it unbound has made its mark too.
BIND_SECONDS = 0.2
# Of changes, while vectors are replaced; and how many may wait.
CLOSED_LOOK_SECONDS, CLOSED_SECONDS, MOST_CLOSED = 0.5, 60.0, 64
# While Milvus restarts; what may be asked twice.
RETRY_SECONDS, RESTART_SECONDS = 0.5, 60.0
REPEATABLE = {"describe", "list", "query", "search", "upsert", "delete", "flush"}
# Milvus answers at most this many rows of a query.
MOST_ROWS = 16_384
# Of a query, as an iterator's: ordered by id. Without, a limit takes any rows.
ORDERED = {"iterator": "True", "reduce_stop_for_best": True}
# What one query may bring, and the largest row without its vector: id, text, metadata and context.
BLOCK_BYTES, ROW_BYTES = 16 * 2**20, 256 + 2 * 2**16 + generations.CONTEXT_BYTES


class Read(enum.Enum):
    """What a search reads of its hits."""

    IDS = "ids"
    ENTITIES = "entities"
    ALL = "entities with vectors"


@dataclass(frozen=True)
class CollectionInfo:
    name: str
    shape: Shape
    count: int


class _Again(Exception):
    """A collection is not any more what a call took it for."""


class Closed(Unavailable):
    """The last changes of a collection are taken over; the next go to its new generation."""

    def __init__(self) -> None:
        super().__init__(
            "the collection's vectors are being replaced, and changes wait",
            reason="COLLECTION_SWITCHES",
            retry_after_seconds=1.0,
        )


class Store:
    """All of Milvus that the service uses."""

    def __init__(self, url: str, token: str, metrics: VectorSearch, flush_after: float, patience: float = 0.0) -> None:
        self.url, self.token, self.metrics = url, token, metrics
        self.flush_after, self.patience = flush_after, patience
        self._away = -RESTART_SECONDS  # when Milvus last did not answer
        self._probing: asyncio.Task[None] | None = None  # while calls wait for Milvus
        self._probing_since = 0.0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="milvus")
        self._probes = ThreadPoolExecutor(1, thread_name_prefix="milvus-probe")
        self._client: MilvusClient | None = None
        self._shapes: dict[str, Shape] = {}  # by the first generation's name
        self._dropping: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._binding: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._binding_lock = threading.Lock()
        self._closed = 0  # changes that wait
        self._dirty: dict[str, float] = {}
        self._connecting = asyncio.Lock()

    # Connection and errors

    async def _connected(self) -> MilvusClient:
        async with self._connecting:
            if self._client is None:
                loop = asyncio.get_running_loop()
                self._client = await loop.run_in_executor(
                    self._pool, lambda: MilvusClient(self.url, token=self.token, timeout=5)
                )
        return self._client

    async def call(self, operation: str, work: Callable[[MilvusClient], T]) -> T:
        """Run one call on a thread."""
        with tracing.span(
            operation,
            tracing.SpanKind.CLIENT,
            {tracing.db.DB_SYSTEM_NAME: "milvus", tracing.db.DB_OPERATION_NAME: operation},
        ):
            until = time.monotonic() + (self.patience if operation in REPEATABLE else 0.0)
            if self._probing and until > time.monotonic():
                await self._back(until)
            while True:
                try:
                    return await self._ask(operation, work)
                except Closed:
                    raise
                except (Unavailable, Internal):
                    # One that has just restarted fails in ways of its own while it reads its collections.
                    if time.monotonic() > until or time.monotonic() - self._away > RESTART_SECONDS:
                        raise
                    await self._back(until)
                    self.metrics.retries.inc()

    async def _back(self, until: float) -> None:
        """Wait until Milvus answers again; VECTOR_STORE_UNAVAILABLE where it does not by then, or has not for long.

        One probe asks for all that wait, so an outage costs each of them one more attempt at most.
        """
        if self._probing is None:
            self._probing, self._probing_since = asyncio.create_task(self._probe()), time.monotonic()
        patience = min(until, self._probing_since + RESTART_SECONDS) - time.monotonic()
        done, _ = await asyncio.wait([self._probing], timeout=max(0.0, patience))
        if not done:
            raise _unavailable(waited=True)

    async def _probe(self) -> None:
        try:
            while True:
                await asyncio.sleep(RETRY_SECONDS)
                with contextlib.suppress(Exception):
                    return await self.ping()
        finally:
            self._probing = None

    async def _thread(self, operation: str, work: Callable[[MilvusClient], T], client: MilvusClient) -> T:
        """Run calls to Milvus on a thread, with the deadline of the request. If the caller disconnects, operations in
        REPEATABLE are cancelled, and work that still waits for a thread never starts."""
        context, caller = contextvars.copy_context(), leaving.Caller()
        if operation in REPEATABLE:
            context.run(leaving.caller.set, caller)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work, client)
        except asyncio.CancelledError:
            caller.leaves()
            raise

    async def _ask(self, operation: str, work: Callable[[MilvusClient], T]) -> T:
        begun = time.monotonic()
        try:
            return await self._thread(operation, work, await self._connected())
        except MilvusException as failure:
            if failure.code == NOT_FOUND:
                raise _no_collection() from None
            if _away(failure):
                raise self._gone(failure) from None
            log.error("Milvus failed in %s: %s", operation, failure)
            raise Internal(f"the vector store failed: {failure.message}", reason="VECTOR_STORE_FAILED") from None
        except (grpc.RpcError, OSError) as failure:
            raise self._gone(failure) from None
        finally:
            self.metrics.store.labels(operation).observe(time.monotonic() - begun)

    def _gone(self, failure: Exception) -> Unavailable:
        now = time.monotonic()
        if now - self._away > RESTART_SECONDS / 10:  # not for each of many calls that wait
            log.warning("Milvus does not answer: %s", failure)
        self._away = now
        return _unavailable()

    async def ping(self) -> None:
        try:
            client = await self._connected()
            # On a thread that no call can hold.
            await asyncio.get_running_loop().run_in_executor(self._probes, lambda: client.list_collections(timeout=2))
        except (Exception, asyncio.CancelledError):  # cancelled: it did not answer in time
            self._away = time.monotonic()
            raise

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
        if self._client is not None:
            self._client.close()
        for pool in (self._pool, self._probes):
            pool.shutdown(wait=False, cancel_futures=True)

    # Names

    @staticmethod
    def _prefix(tenant: str) -> str:
        return "t" + hashlib.sha256(tenant.encode()).hexdigest()[:32] + "_"

    @classmethod
    def physical(cls, tenant: str, name: str) -> str:
        """Of its first generation."""
        return cls._prefix(tenant) + name.replace("_", "_u").replace("-", "_h")

    @classmethod
    def logical(cls, tenant: str, physical: str) -> str:
        return generations.first_of(physical).removeprefix(cls._prefix(tenant)).replace("_h", "-").replace("_u", "_")

    # Collections

    def _current(self, client: MilvusClient, base: str, since: float) -> Shape:
        """The generation that holds, as it was at a moment (of the monotonic clock) or later."""
        known = self._shapes.get(base)
        if known and known.asked >= since:
            return known
        shape = generations.whole(client, known.physical) if known else None
        shape = shape or generations.holding(client, base)
        if shape is None:
            self._shapes.pop(base, None)
            raise _no_collection()
        self._shapes[base] = shape
        return shape

    async def _within(
        self,
        operation: str,
        tenant: str,
        name: str,
        work: Callable[[MilvusClient, Shape], T],
        *,
        check: Callable[[Shape], None] = lambda shape: None,
        age: float = KNOWN_SECONDS,
        changes: bool = False,
    ) -> T:
        """A call within a collection. ``check`` raises where the collection is not one for it; ``age``: seconds that what
        is known may be old. Where it was, and the call failed, it is made again."""
        base = self.physical(tenant, name)

        def run(client: MilvusClient) -> T:
            since, loaded = time.monotonic() - (JUST_KNOWN_SECONDS if changes else age), False
            while True:
                shape = self._current(client, base, since)
                try:
                    check(shape)
                    if changes and shape.closed_until > time.time():
                        raise Closed()
                    return work(client, shape)
                except _Again:
                    since = time.monotonic()
                except GenmeshError:
                    since = time.monotonic()
                    if self._current(client, base, since) == shape:
                        raise
                except MilvusException as failure:
                    since = time.monotonic()
                    if failure.code == NOT_LOADED and not loaded:
                        loaded = True
                        if self._current(client, base, since) == shape:
                            client.load_collection(shape.physical, timeout=left(CALL_TIMEOUT_SECONDS))
                            since = time.monotonic()
                    elif _away(failure) or self._current(client, base, since) == shape:
                        raise

        until, waits = time.monotonic() + left(CLOSED_SECONDS) - 2 * CLOSED_LOOK_SECONDS, False
        try:
            while True:
                try:
                    return await self.call(operation, run)
                except Closed:
                    if time.monotonic() > until or (self._closed >= MOST_CLOSED and not waits):
                        raise
                    self._closed += not waits
                    waits = True
                    await asyncio.sleep(CLOSED_LOOK_SECONDS)
        finally:
            self._closed -= waits

    async def create(
        self,
        tenant: str,
        name: str,
        dimension: int,
        metric: str,
        description: str,
        revision: str = "",
        analyzer: str = "",
    ) -> None:
        base, mine = self.physical(tenant, name), uuid.uuid4().hex

        def work(client: MilvusClient) -> bool:
            """Whether it was not there. Of several at once Milvus may tell each that it made the collection."""
            properties = {
                generations.DESCRIPTION: description, generations.METRIC: metric, generations.MAKER: mine,
                generations.REVISION: revision, generations.ANALYZER: generations.analyzer_for(client, analyzer),
            }  # fmt: skip
            failure = None
            there = generations.holding(client, base)
            if there is None:
                generations.clear(client, base)
                try:
                    generations.make(client, base, dimension, properties)
                except MilvusException as refused:
                    failure = refused
            found = generations.properties_of(client, there.physical if there else base)
            if found is None:
                raise failure or MilvusException(NOT_FOUND, "deleted meanwhile")
            shape, made = found
            generations.ready(client, shape)
            return bool(made.get(generations.MAKER) == mine)

        if not await self.call("create", work):
            raise AlreadyExists(
                f"collection.name: there is a collection {name!r} already",
                reason="COLLECTION_EXISTS",
                metadata={"collection": name},
            )

    async def describe(self, tenant: str, name: str) -> CollectionInfo:
        return await self._within(
            "describe", tenant, name, lambda c, shape: CollectionInfo(name, shape, generations.count(c, shape.physical)),
            age=0,
        )  # fmt: skip

    async def shape(self, tenant: str, name: str, *, anew: bool = False) -> Shape:
        """What a collection's vectors are. What is known may be old: another replica may have replaced the collection."""
        known = self._shapes.get(self.physical(tenant, name))
        if known and not anew and known.asked > time.monotonic() - KNOWN_SECONDS:
            return known
        return await self._within("describe", tenant, name, lambda _, shape: shape, age=0)

    async def names(self, tenant: str) -> list[str]:
        """Of all collections, and perhaps of one that was deleted while its vectors were replaced."""
        found = await self.call("list", lambda client: client.list_collections(timeout=left(CALL_TIMEOUT_SECONDS)))
        return sorted({self.logical(tenant, n) for n in found if n.startswith(self._prefix(tenant))})

    async def drop(self, tenant: str, name: str) -> None:
        base = self.physical(tenant, name)

        def work(client: MilvusClient) -> bool:
            there = generations.holding(client, base)
            for physical in reversed(generations.generations(client, base)):  # drafts first: none may come to hold
                generations.drop(client, physical)
                self._dirty.pop(physical, None)
            self.forget(base)
            return there is not None

        # Milvus says nothing where a drop finds no collection: one after the other.
        async with self._dropping.setdefault(base, asyncio.Lock()):
            if not await self.call("drop", work):
                raise _no_collection()

    # Entities

    async def upsert(self, tenant: str, name: str, rows: list[dict[str, Any]], field: str, revision: str = "") -> int:
        """``field``: the first row's vector."""

        def check(shape: Shape) -> None:
            check_revision(shape, name, revision)
            _check_length(shape, field, rows[0]["vector"])

        def work(client: MilvusClient, shape: Shape) -> str:
            if revision and not shape.revision and self._bind(client, shape, revision):
                raise _Again
            client.upsert(shape.physical, with_words(shape, rows), timeout=_of_a_change(shape))
            return shape.physical

        self.changed(await self._within("upsert", tenant, name, work, check=check, changes=True))
        self.metrics.upserted.inc(len(rows))
        return len(rows)

    def forget(self, base: str) -> None:
        """What is known of a collection, by its first generation's name."""
        self._shapes.pop(base, None)

    def changed(self, physical: str) -> None:
        """``seal`` has to look after it."""
        if self.flush_after:
            self._dirty[physical] = time.monotonic()

    def _bind(self, client: MilvusClient, shape: Shape, revision: str) -> bool:
        """Record the model of the first vectors of an empty collection. True: the collection has changed, look it up again;
        False: it holds vectors of an unknown model already and stays unbound.

        Milvus has no compare-and-set. The last write of the property wins, so each caller waits BIND_SECONDS and reads the
        property again before it stores vectors. Two replicas can still mix models if one of them takes longer than that
        between reading and writing.
        """
        with self._binding_lock:
            lock = self._binding.setdefault(shape.physical, threading.Lock())
        with lock:
            found = generations.properties_of(client, shape.physical)
            if found is None or found[0].revision:
                return True
            if generations.count(client, shape.physical):
                return False
            generations.mark(client, shape.physical, {generations.REVISION: revision})
            time.sleep(BIND_SECONDS)
            return True

    async def _ids(self, tenant: str, name: str, expression: str, **more: Any) -> list[str]:
        rows = await self._within("query", tenant, name, lambda c, s: query(c, s.physical, expression, ["id"], **more))
        return [row["id"] for row in rows]

    async def get(
        self, tenant: str, name: str, ids: Sequence[str], *, vectors: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The rows of ids that are there, in the order of ``ids``; read in blocks, so that little is held at once."""
        step = await self._block(tenant, name, vectors=vectors)
        for start in range(0, len(ids), step):
            block = ids[start : start + step]

            def work(client: MilvusClient, shape: Shape, wanted: str = among(block)) -> list[dict[str, Any]]:
                return query(client, shape.physical, wanted, fields_of(shape, vectors=vectors))

            rows = await self._within("query", tenant, name, work)
            found = {row["id"]: row for row in rows}
            for known in block:
                if known in found:
                    yield found[known]

    async def ids_after(
        self, tenant: str, name: str, expression: str, after: str, most: int, prefixes: Sequence[str] = ("",)
    ) -> list[str]:
        """Up to ``most`` ids that begin with one of the prefixes and that an expression selects, ascending, after an id."""
        ranges = [one for prefix in prefixes if (one := id_range(prefix, after))]
        if not ranges:
            return []
        place = ranges[0] if len(ranges) == 1 else f"({' or '.join(f'({one})' for one in ranges)})"
        return await self._ids(
            tenant, name, f"{place} and {expression}" if expression else place, limit=most, **ORDERED
        )

    async def _block(self, tenant: str, name: str, *, vectors: bool) -> int:
        return block_of((await self.shape(tenant, name)).dimension if vectors else 0)

    async def delete(self, tenant: str, name: str, ids: Sequence[str], expression: str) -> int:
        """Delete by ids or by an expression; how many there were. Of several at once Milvus may tell each of the same ones,
        the built-in store one."""

        total, selected = 0, among(ids) if ids else expression
        while True:
            there = await self._ids(tenant, name, selected, limit=MOST_ROWS)
            if there:
                total += await self._within("delete", tenant, name, partial(_delete, there), changes=True)
            if ids or len(there) < MOST_ROWS:
                self.metrics.deleted.inc(total)
                return total

    async def search(
        self,
        tenant: str,
        name: str,
        vectors: list[list[float]],
        expression: str,
        limit: int,
        *,
        read: Read = Read.IDS,
        revision: str = "",
    ) -> list[Found]:
        """For each vector its hits, nearest first; only their ids where what is to be read of all may be more than BLOCK_BYTES."""

        def check(shape: Shape) -> None:
            check_revision(shape, name, revision)
            _check_length(shape, "vectors[0].values", vectors[0])

        def work(client: MilvusClient, shape: Shape) -> list[Found]:
            return _search(
                client, shape, vectors, anns_field="vector", expression=expression, limit=limit, read=read,
                params={"ef": max(64, limit)},
            )  # fmt: skip

        return await self._within(
            "search", tenant, name, work, check=check, age=JUST_KNOWN_SECONDS if revision else KNOWN_SECONDS
        )

    async def search_words(
        self, tenant: str, name: str, texts: list[str], expression: str, limit: int, *, read: Read = Read.IDS
    ) -> list[Found]:
        """For each text its hits by BM25, greatest score first; as ``search``."""

        def check(shape: Shape) -> None:
            if not shape.analyzer:
                raise generations.no_bm25(
                    f"collection: {name!r} was made without BM25 search; Reindex (RagService) or ReplaceVectors adds it"
                )

        def work(client: MilvusClient, shape: Shape) -> list[Found]:
            queries = [analysis.asked(shape.analyzer, text) for text in texts]
            some = [query for query in queries if query]  # Milvus takes no empty one
            found = _search(
                client, shape, some, anns_field="counts", expression=expression, limit=limit, read=read, params={}
            ) if some else []  # fmt: skip
            hits = iter(found)
            return [next(hits) if query else [] for query in queries]

        return await self._within("search", tenant, name, work, check=check)

    async def nearness(self, tenant: str, name: str, vector: Sequence[float], ids: Sequence[str]) -> dict[str, float]:
        """What a search with a vector would give entities as their distances, by id; without those that are gone."""
        found: dict[str, float] = {}
        step = block_of(len(vector))
        for start in range(0, len(ids), step):

            def work(
                client: MilvusClient, shape: Shape, wanted: str = among(ids[start : start + step])
            ) -> dict[str, float]:
                rows = query(client, shape.physical, wanted, ["id", "vector"])
                rows = [row for row in rows if len(row["vector"]) == len(vector)]
                return dict(zip([row["id"] for row in rows], distances(shape.metric, vector, rows), strict=True))

            found |= await self._within("query", tenant, name, work)
        return found

    async def scores_of_words(self, tenant: str, name: str, text: str, ids: Sequence[str]) -> dict[str, float]:
        """The BM25 scores of entities, by id; without those that share no word with the text."""
        if not ids:
            return {}
        (hits,) = await self.search_words(tenant, name, [text], among(ids), len(ids))
        return {hit["id"]: hit["distance"] for hit in hits}

    @staticmethod
    def _flush(physical: str, client: MilvusClient) -> None:
        client.flush(physical, timeout=left(CALL_TIMEOUT_SECONDS))

    async def seal(self) -> None:
        """Flush collections that had no new vectors for a while: a search in sealed ones is several times faster."""
        while self.flush_after:
            await asyncio.sleep(self.flush_after / 2)
            for physical, last in list(self._dirty.items()):
                if time.monotonic() - last < self.flush_after:
                    continue
                del self._dirty[physical]
                try:
                    await self.call("flush", partial(self._flush, physical))
                except Exception as failure:  # the vectors are safe, only slower to search
                    log.warning("flush failed: %s", failure)


def _search(
    client: MilvusClient, shape: Shape, queries: Sequence[Any], *, anns_field: str, expression: str, limit: int,
    read: Read, params: dict[str, int],
) -> list[Found]:  # fmt: skip
    vectors = read is Read.ALL
    fits = len(queries) * limit <= block_of(shape.dimension if vectors else 0)
    # Without any, the built-in store would send all.
    fields = fields_of(shape, vectors=vectors) if fits and read is not Read.IDS else ["id"]
    found = client.search(
        shape.physical, list(queries), anns_field=anns_field, filter=expression, limit=limit,
        output_fields=fields, search_params={"params": params}, timeout=left(CALL_TIMEOUT_SECONDS),
    )  # fmt: skip
    return [list(hits) for hits in found]


def distances(metric: str, vector: Sequence[float], rows: Sequence[dict[str, Any]]) -> list[float]:
    """From the rows' vectors, as Milvus gives them: cosines, inner products, or squared Euclidean distances."""
    if not rows:
        return []
    others, one = np.array([row["vector"] for row in rows], np.float64), np.array(vector, np.float64)
    if metric == "L2":
        return ((others - one) ** 2).sum(1).tolist()  # type: ignore[no-any-return]
    products = others @ one
    if metric == "COSINE":
        products /= np.linalg.norm(others, axis=1) * np.linalg.norm(one)
    return products.tolist()  # type: ignore[no-any-return]


def with_words(shape: Shape, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a collection keeps them."""
    if not shape.analyzer:
        return [{field: value for field, value in row.items() if field != "context"} for row in rows]
    kept = [{"context": "", **row} for row in rows]
    return [{**row, "words": analysis.stored(shape.analyzer, f"{row['context']}\n{row['text']}")} for row in kept]


def _away(failure: MilvusException) -> bool:
    """Whether Milvus does not answer. A collection that was loaded and is not is one of a Milvus that restarted in between,
    or that others see otherwise."""
    return isinstance(failure.code, grpc.StatusCode) or failure.code in (CONNECT_FAILED, NOT_LOADED)


def _of_a_change(shape: Shape) -> float:
    """Its timeout: what it goes by may be that old at its end. pymilvus may use it twice, as it tries again."""
    return left(shape.asked + CALL_TIMEOUT_SECONDS - time.monotonic())


def check_revision(shape: Shape, name: str, revision: str) -> None:
    if revision and shape.revision and revision != shape.revision:
        raise FailedPrecondition(
            f"model_revision: the vectors of collection {name!r} are of {shape.revision}, not of {revision}",
            reason="MODEL_REVISION_MISMATCH",
            metadata={
                "field": "model_revision", "collection": name, "collection_revision": shape.revision,
                "request_revision": revision,
            },
        )  # fmt: skip


def _check_length(shape: Shape, field: str, vector: Sequence[float]) -> None:
    if len(vector) != shape.dimension:
        raise invalid(field, f"has {len(vector)} values; the collection's vectors have {shape.dimension}")


def _delete(ids: Sequence[str], client: MilvusClient, shape: Shape) -> int:
    told = client.delete(shape.physical, filter=among(ids), timeout=_of_a_change(shape))
    return int(told["delete_count"]) if isinstance(told, dict) else len(told)  # a built-in store of before: the ids


def query(client: MilvusClient, physical: str, expression: str, fields: list[str], **more: Any) -> list[dict[str, Any]]:
    return list(
        client.query(physical, filter=expression, output_fields=fields, timeout=left(CALL_TIMEOUT_SECONDS), **more)
    )


def fields_of(shape: Shape, *, vectors: bool) -> list[str]:
    return ["id", "text", "metadata", *(["context"] if shape.analyzer else []), *(["vector"] if vectors else [])]


def block_of(dimension: int) -> int:
    """How many rows fit into BLOCK_BYTES, however large they are."""
    return max(1, BLOCK_BYTES // (ROW_BYTES + 4 * dimension))


def among(ids: Sequence[str]) -> str:
    """The expression that selects these ids. pymilvus' own, for ``ids=``, pastes them between quotes as they are."""
    return f"id in [{', '.join(map(literal, ids))}]"


def end_of(prefix: str) -> str:
    """The least text, by code points, that is greater than each that begins with a prefix; "" where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)  # half a surrogate pair is no text


def id_range(prefix: str, after: str) -> str:
    """The expression that selects ids that begin with a prefix, after an id; "" where there can be none."""
    end = end_of(prefix)
    if end and after >= end:
        return ""
    place = f"id > {literal(after)}" if after >= prefix else f"id >= {literal(prefix)}"
    return f"{place} and id < {literal(end)}" if end else place


def _unavailable(*, waited: bool = False) -> Unavailable:
    text = "the vector store does not answer"
    error = Unavailable(text, reason="VECTOR_STORE_UNAVAILABLE", retry_after_seconds=1.0)
    error.retried = waited
    return error


def _no_collection() -> NotFound:
    return NotFound(
        "collection: there is no collection of that name",
        reason="COLLECTION_NOT_FOUND",
        metadata={"field": "collection"},
    )
