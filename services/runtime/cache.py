"""Caches that are never the cause of an error: Redis where it is configured, else a bounded dict.

A cache that fails is a miss and a metric. After a failure the cache rests for a moment, so that a
dead Redis costs one short timeout now and then and not one a call.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
import redis.asyncio as redis
from prometheus_client import CollectorRegistry
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.runtime import identity
from services.runtime.errors import GenmeshError
from services.runtime.health import Probe
from services.runtime.metrics import Caches
from services.runtime.settings import CacheSettings

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 0.25
REST_SECONDS = 1.0
MOST_CONNECTIONS = 64  # to Redis; further calls wait for one


class Store(Protocol):
    """What holds the entries."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]: ...
    async def put(self, entries: Mapping[str, bytes]) -> None: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...


class LocalStore:
    """The process's own memory; the least recently used entry goes first."""

    def __init__(self, most: int, ttl: float) -> None:
        self.most, self.ttl = most, ttl
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is None or entry[0] < time.monotonic():
                found.append(None)
            else:
                self._entries.move_to_end(key)
                found.append(entry[1])
        return found

    async def put(self, entries: Mapping[str, bytes]) -> None:
        for key, value in entries.items():
            self._entries[key] = (time.monotonic() + self.ttl, value)
            self._entries.move_to_end(key)
        while len(self._entries) > self.most:
            self._entries.popitem(last=False)

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        self._entries.clear()


class RedisStore:
    """Redis, shared by all replicas."""

    def __init__(self, url: str, ttl: int) -> None:
        self.ttl = ttl
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=MOST_CONNECTIONS, timeout=TIMEOUT_SECONDS, socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0), health_check_interval=0,
        )  # fmt: skip
        self._client = redis.Redis.from_pool(pool)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        found: Any = await self._client.mget(list(keys))
        return list(found)

    async def put(self, entries: Mapping[str, bytes]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for key, value in entries.items():
                pipe.set(key, value, ex=self.ttl)
            await pipe.execute()

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()


class Cache:
    """One kind of entry of one service; keys are scoped to the tenant of the call."""

    def __init__(self, service: str, kind: str, settings: CacheSettings, registry: CollectorRegistry) -> None:
        self.kind = kind
        self.store: Store = (
            RedisStore(settings.redis_url.get_secret_value(), settings.cache_ttl_seconds)
            if settings.redis_url
            else LocalStore(settings.cache_local_entries, settings.cache_ttl_seconds)
        )
        metrics = Caches(service, registry, cache=[kind])
        self._hits, self._misses = metrics.lookups.labels(kind, "hit"), metrics.lookups.labels(kind, "miss")
        self._failures, self._duration = metrics.failures.labels(kind), metrics.duration.labels(kind)
        self._joined = metrics.joined.labels(kind)
        self._resting_until = 0.0
        self._flights: dict[str, asyncio.Future[bytes]] = {}
        self._writes: set[asyncio.Task[None]] = set()

    def key(self, *parts: str) -> str:
        """A key of the tenant at hand; ``parts`` are the model's revision and all that changes the result."""
        digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
        tenant = identity.current().tenant.encode().hex()
        return f"genmesh:{self.kind}:{tenant}:{digest}"

    async def get(self, keys: Sequence[str]) -> tuple[list[bytes | None], bool]:
        """The entries (None for a miss), and whether the cache answered."""
        nothing: list[bytes | None] = [None] * len(keys)
        if time.monotonic() < self._resting_until:
            self._misses.inc(len(keys))
            return nothing, False
        try:
            with self._duration.time():
                found = await self.store.get(keys)
        except (RedisError, OSError, TimeoutError) as failure:
            self._failed(failure)
            self._misses.inc(len(keys))
            return nothing, False
        hits = sum(entry is not None for entry in found)
        self._hits.inc(hits)
        self._misses.inc(len(keys) - hits)
        return found, True

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Store entries beside the call; the answer does not wait for it."""
        if entries and time.monotonic() >= self._resting_until:
            task = asyncio.create_task(self._put(dict(entries)))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _put(self, entries: Mapping[str, bytes]) -> None:
        try:
            await self.store.put(entries)
        except (RedisError, OSError, TimeoutError) as failure:
            self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        self._failures.inc()
        self._resting_until = time.monotonic() + REST_SECONDS
        log.warning("the %s cache does not answer: %s", self.kind, failure)

    async def compute(self, keys: Sequence[str], work: Callable[[list[int]], Awaitable[list[bytes]]]) -> list[bytes]:
        """The values of keys that the cache lacks, computing each key once however many calls want it now.

        ``work`` gets the positions that nobody computes yet and returns their values. Values are stored; a failure is that of
        all that wait.
        """
        loop = asyncio.get_running_loop()
        mine: dict[str, int] = {}
        awaited: dict[str, asyncio.Future[bytes]] = {}
        for position, key in enumerate(keys):
            if key not in awaited:
                if key not in self._flights:
                    mine[key] = position
                    self._flights[key] = loop.create_future()
                awaited[key] = self._flights[key]
        self._joined.inc(len(awaited) - len(mine))
        try:
            if mine:
                values = await work(list(mine.values()))
                for key, value in zip(mine, values, strict=True):
                    self._flights[key].set_result(value)
                self.put(dict(zip(mine, values, strict=True)))
        except GenmeshError as failure:
            if failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # others may have longer
                for key in mine:
                    self._flights[key].set_exception(copy.copy(failure))
                    self._flights[key].exception()  # there may be nobody who waits for it
            raise
        finally:
            for key in mine:
                flight = self._flights.pop(key)
                if not flight.done():
                    flight.cancel()
        found: dict[str, bytes] = {}
        lost: list[str] = []
        for key, flight in awaited.items():
            try:
                found[key] = await asyncio.shield(flight)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise  # this call itself was cancelled
                lost.append(key)  # the call that computed it went away
        if lost:
            again = dict(
                zip(lost, await self.compute([*lost], lambda at: work([keys.index(lost[i]) for i in at])), strict=True)
            )
            found |= again
        return [found[key] for key in keys]

    def probes(self) -> dict[str, Probe]:
        """What tells whether a cache outside of this process answers."""
        return {"redis": self.store.ping} if isinstance(self.store, RedisStore) else {}

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes, timeout=1)
        await self.store.close()
