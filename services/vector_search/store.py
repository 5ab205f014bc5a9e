"""Milvus, one physical collection for each tenant's collection.

The physical name starts with a hash of the tenant, so no request can name another tenant's
collection. What Milvus Lite does not keep (descriptions) stands in the collection's properties.
Calls run on a bounded pool of threads: what pymilvus does with a large request before it sends it, also in its asynchronous
client, would hold up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from services.runtime import tracing
from services.runtime.deadline import left
from services.runtime.errors import AlreadyExists, Internal, NotFound, Unavailable, invalid
from services.runtime.metrics import VectorSearch
from services.vector_search.filters import literal

log = logging.getLogger(__name__)
T = TypeVar("T")
THREADS = 16
CALL_TIMEOUT_SECONDS = 10.0
# While Milvus restarts; what may be asked twice.
RETRY_SECONDS, RESTART_SECONDS = 0.5, 60.0
REPEATABLE = {"describe", "list", "query", "search", "upsert", "delete", "flush"}
# Milvus answers at most this many rows of a query.
MOST_ROWS = 16_384
# What one query may bring, and the largest row without its vector: id, text and metadata.
BLOCK_BYTES, ROW_BYTES = 16 * 2**20, 256 + 2 * 2**16
# pymilvus' codes; where the server does not answer it puts a gRPC status in their place.
CONNECT_FAILED, NOT_FOUND, NOT_LOADED = 2, 100, 101
# A collection's properties; MAKER is whose call made it.
DESCRIPTION, METRIC, MAKER = "genmesh.description", "genmesh.metric", "genmesh.maker"


@dataclass(frozen=True)
class Shape:
    """What a collection's vectors are."""

    dimension: int
    metric: str  # Milvus' name: COSINE, IP or L2


@dataclass(frozen=True)
class CollectionInfo:
    name: str
    shape: Shape
    description: str
    count: int


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
        self._shapes: dict[str, Shape] = {}
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

    async def _call(self, operation: str, name: str, work: Callable[[MilvusClient], T]) -> T:
        """Run one call on a thread; load the collection and try again where Milvus restarted and has not."""
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
                    return await self._ask(operation, name, work)
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

    async def _thread(self, work: Callable[[MilvusClient], T], client: MilvusClient) -> T:
        """One call to Milvus, with the deadline of the call at hand; one that has not begun when its caller leaves never
        does."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work, client)

    async def _ask(self, operation: str, name: str, work: Callable[[MilvusClient], T]) -> T:
        begun = time.monotonic()
        try:
            client = await self._connected()
            try:
                return await self._thread(work, client)
            except MilvusException as failure:
                if failure.code != NOT_LOADED or not name:
                    raise
                await self._thread(lambda c: c.load_collection(name, timeout=left(CALL_TIMEOUT_SECONDS)), client)
                return await self._thread(work, client)
        except MilvusException as failure:
            if failure.code == NOT_FOUND:
                self._shapes.pop(name, None)
                raise _no_collection() from None
            # One that was loaded and is not is one that restarted in between, or that others see otherwise.
            if isinstance(failure.code, grpc.StatusCode) or failure.code in (CONNECT_FAILED, NOT_LOADED):
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
        return cls._prefix(tenant) + name.replace("_", "_u").replace("-", "_h")

    @classmethod
    def logical(cls, tenant: str, physical: str) -> str:
        return physical.removeprefix(cls._prefix(tenant)).replace("_h", "-").replace("_u", "_")

    # Collections

    async def create(self, tenant: str, name: str, dimension: int, metric: str, description: str) -> None:
        physical, mine = self.physical(tenant, name), uuid.uuid4().hex

        def work(client: MilvusClient) -> bool:
            """Whether it was not there. Of several at once Milvus may tell each that it made the collection."""
            properties = {DESCRIPTION: description, METRIC: metric, MAKER: mine}
            failure = None
            if not client.has_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
                schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=256)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
                schema.add_field("text", DataType.VARCHAR, max_length=65_535)
                schema.add_field("metadata", DataType.JSON)
                try:
                    client.create_collection(
                        physical, schema=schema, properties={k: v for k, v in properties.items() if v},
                        consistency_level="Strong", timeout=left(CALL_TIMEOUT_SECONDS),
                    )  # fmt: skip
                except MilvusException as refused:
                    failure = refused
            try:
                found = client.describe_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))
            except MilvusException as lost:
                raise failure or lost from None
            made = found.get("properties") or {}
            _index(client, physical, made.get(METRIC))
            return bool(made.get(MAKER) == mine)

        if not await self._call("create", physical, work):
            raise AlreadyExists(
                f"collection.name: there is a collection {name!r} already",
                reason="COLLECTION_EXISTS",
                metadata={"collection": name},
            )
        self._shapes[physical] = Shape(dimension, metric)

    async def describe(self, tenant: str, name: str) -> CollectionInfo:
        physical = self.physical(tenant, name)

        def work(client: MilvusClient) -> CollectionInfo:
            found = client.describe_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))
            counted = client.query(physical, filter="", output_fields=["count(*)"], timeout=left(CALL_TIMEOUT_SECONDS))
            description = (found.get("properties") or {}).get(DESCRIPTION, "")
            return CollectionInfo(name, _shape(client, physical, found), description, int(counted[0]["count(*)"]))

        found = await self._call("describe", physical, work)
        self._shapes[physical] = found.shape
        return found

    async def shape(self, tenant: str, name: str, *, anew: bool = False) -> Shape:
        """What a collection's vectors are. What is known may be old: another replica may have replaced the collection."""
        physical = self.physical(tenant, name)
        known = None if anew else self._shapes.get(physical)
        return known or await self._ask_shape(physical)

    async def _ask_shape(self, physical: str) -> Shape:
        def work(client: MilvusClient) -> Shape:
            return _shape(client, physical, client.describe_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS)))

        found = self._shapes[physical] = await self._call("describe", physical, work)
        return found

    async def _with_vectors(
        self, operation: str, physical: str, field: str, length: int, work: Callable[[MilvusClient], T]
    ) -> T:
        """A call with vectors; ``field`` is the first of them."""
        try:
            return await self._call(operation, physical, work)
        except Internal:
            wanted = (await self._ask_shape(physical)).dimension
            if wanted == length:
                raise
            raise invalid(field, f"has {length} values; the collection's vectors have {wanted}") from None

    async def names(self, tenant: str) -> list[str]:
        found = await self._call("list", "", lambda client: client.list_collections(timeout=left(CALL_TIMEOUT_SECONDS)))
        return sorted(self.logical(tenant, n) for n in found if n.startswith(self._prefix(tenant)))

    async def drop(self, tenant: str, name: str) -> None:
        physical = self.physical(tenant, name)

        def work(client: MilvusClient) -> bool:
            if not client.has_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
                return False
            client.drop_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))
            return True

        if not await self._call("drop", physical, work):
            raise _no_collection()
        self._shapes.pop(physical, None)
        self._dirty.pop(physical, None)

    # Entities

    async def upsert(self, tenant: str, name: str, rows: list[dict[str, Any]], field: str) -> int:
        """``field``: the first row's vector."""
        physical = self.physical(tenant, name)
        await self._with_vectors(
            "upsert", physical, field, len(rows[0]["vector"]),
            lambda c: c.upsert(physical, rows, timeout=left(CALL_TIMEOUT_SECONDS)),
        )  # fmt: skip
        self._dirty[physical] = time.monotonic()
        self.metrics.upserted.inc(len(rows))
        return len(rows)

    async def _ids(self, physical: str, expression: str) -> list[str]:
        """Ids that an expression selects, at most MOST_ROWS."""
        rows = await self._query(physical, expression, ["id"], limit=MOST_ROWS)
        return [row["id"] for row in rows]

    async def _query(self, physical: str, expression: str, fields: list[str], **more: Any) -> list[dict[str, Any]]:
        return await self._call(
            "query",
            physical,
            lambda c: list(
                c.query(physical, filter=expression, output_fields=fields, timeout=left(CALL_TIMEOUT_SECONDS), **more)
            ),
        )

    @staticmethod
    def _fields(vectors: bool) -> list[str]:
        return ["id", "text", "metadata", *(["vector"] if vectors else [])]

    async def get(
        self, tenant: str, name: str, ids: Sequence[str], *, vectors: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The rows of ids that are there, in the order of ``ids``; read in blocks, so that little is held at once."""
        physical, step = self.physical(tenant, name), await self._block(tenant, name, vectors=vectors)
        for start in range(0, len(ids), step):
            block = ids[start : start + step]
            rows = await self._query(physical, _among(block), self._fields(vectors))
            found = {row["id"]: row for row in rows}
            for known in block:
                if known in found:
                    yield found[known]

    async def ids_after(
        self, tenant: str, name: str, expression: str, after: str, most: int, *, prefix: str = ""
    ) -> list[str]:
        """Up to ``most`` ids that begin with a prefix and that an expression selects, ascending, after an id."""
        place = f"id > {literal(after)}" if after >= prefix else f"id >= {literal(prefix)}"
        if end := end_of(prefix):
            place += f" and id < {literal(end)}"
        # As an iterator's: ordered by id. Without, a limit takes any rows.
        rows = await self._query(
            self.physical(tenant, name), f"{place} and {expression}" if expression else place, ["id"],
            limit=most, iterator="True", reduce_stop_for_best=True,
        )  # fmt: skip
        return [row["id"] for row in rows]

    async def _block(self, tenant: str, name: str, *, vectors: bool) -> int:
        """How many rows fit into BLOCK_BYTES, however large they are."""
        dimension = (await self.shape(tenant, name)).dimension if vectors else 0
        return max(1, BLOCK_BYTES // (ROW_BYTES + 4 * dimension))

    async def delete(self, tenant: str, name: str, ids: Sequence[str], expression: str) -> int:
        """Delete by ids or by an expression; how many there were."""
        physical = self.physical(tenant, name)
        total = 0
        while True:
            there = await self._ids(physical, _among(ids) if ids else expression)
            if there:
                await self._call("delete", physical, partial(self._delete_ids, physical, there))
            total += len(there)
            if ids or len(there) < MOST_ROWS:
                self.metrics.deleted.inc(total)
                return total

    async def search(
        self, tenant: str, name: str, vectors: list[list[float]], expression: str, limit: int, *, include_vectors: bool
    ) -> list[list[dict[str, Any]]]:
        """For each vector its hits, ``id``, ``distance`` and ``entity``; without the entity where those of all hits may be
        more than BLOCK_BYTES."""
        physical = self.physical(tenant, name)
        self.metrics.queries.inc(len(vectors))
        small = len(vectors) * limit <= await self._block(tenant, name, vectors=include_vectors)
        found = await self._with_vectors(
            "search", physical, "vectors[0].values", len(vectors[0]),
            lambda c: c.search(
                physical, vectors, anns_field="vector", filter=expression, limit=limit,
                output_fields=self._fields(include_vectors) if small else [],
                search_params={"params": {"ef": max(64, limit)}}, timeout=left(CALL_TIMEOUT_SECONDS),
            ),
        )  # fmt: skip
        return [list(hits) for hits in found]

    @staticmethod
    def _delete_ids(physical: str, ids: list[str], client: MilvusClient) -> None:
        client.delete(physical, filter=_among(ids), timeout=left(CALL_TIMEOUT_SECONDS))

    @staticmethod
    def _flush(physical: str, client: MilvusClient) -> None:
        client.flush(physical, timeout=left(CALL_TIMEOUT_SECONDS))

    async def seal(self) -> None:
        """Flush collections that had no new vectors for a while: a search in sealed ones is several times faster."""
        while True:
            await asyncio.sleep(self.flush_after / 2)
            for physical, last in list(self._dirty.items()):
                if time.monotonic() - last < self.flush_after:
                    continue
                del self._dirty[physical]
                try:
                    await self._call("flush", physical, partial(self._flush, physical))
                except Exception as failure:  # the vectors are safe, only slower to search
                    log.warning("flush failed: %s", failure)


def _shape(client: MilvusClient, physical: str, described: dict[str, Any]) -> Shape:
    dimension = next(f for f in described["fields"] if f["name"] == "vector")["params"]["dim"]
    metric = (described.get("properties") or {}).get(METRIC)
    if metric is None:  # made before metrics were among the properties
        metric = client.describe_index(physical, "vector", timeout=left(CALL_TIMEOUT_SECONDS))["metric_type"]
    return Shape(int(dimension), metric)


def _index(client: MilvusClient, physical: str, metric: str | None) -> None:
    """Make a new collection's index and load it, also where who made the collection did not come to that."""
    if metric is None:
        return
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type=metric, params={"M": 16, "efConstruction": 128})
    if not client.list_indexes(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
        try:
            client.create_index(physical, index, timeout=left(CALL_TIMEOUT_SECONDS))
        except MilvusException:  # another was faster
            if not client.list_indexes(physical, timeout=left(CALL_TIMEOUT_SECONDS)):
                raise
    client.load_collection(physical, timeout=left(CALL_TIMEOUT_SECONDS))


def _among(ids: Sequence[str]) -> str:
    """The expression that selects these ids. pymilvus' own, for ``ids=``, pastes them between quotes as they are."""
    return f"id in [{', '.join(map(literal, ids))}]"


def end_of(prefix: str) -> str:
    """The least text, by code points, that is greater than each that begins with a prefix; "" where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)  # half a surrogate pair is no text


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
