"""The local store's bounds; the cache's hits, failures and rest; and computing each key once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError as RedisConnectionError

from services.runtime import cache as module
from services.runtime.cache import Cache, LocalStore
from services.runtime.errors import DeadlineExceeded, Unavailable
from services.runtime.settings import CacheSettings

AsTenant = Callable[[str], None]


class BrokenStore:
    """A store that never answers; it counts how often it was asked."""

    def __init__(self, failure: Exception) -> None:
        self.failure, self.asked = failure, 0

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked += 1
        raise self.failure

    async def put(self, entries: Mapping[str, bytes]) -> None:
        self.asked += 1
        raise self.failure

    async def close(self) -> None:
        pass


class Work:
    """Counts the positions it is asked for; it waits for ``go`` where there is one."""

    def __init__(self, values: Sequence[bytes], *, gated: bool = False, failure: Exception | None = None) -> None:
        self.values, self.failure = values, failure
        self.asked: list[list[int]] = []
        self.go = asyncio.Event()
        if not gated:
            self.go.set()

    async def __call__(self, positions: list[int]) -> list[bytes]:
        self.asked.append(positions)
        await asyncio.sleep(0)
        await self.go.wait()
        if self.failure:
            raise self.failure
        return [self.values[p] for p in positions]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def cache(registry: CollectorRegistry) -> Cache:
    settings = CacheSettings(port=1, metrics_port=2, identity_secret="x" * 16, redis_url=None)
    return Cache("embedding", "vectors", settings, registry)


@pytest.fixture
def lookups(registry: CollectorRegistry) -> Callable[[], tuple[float, float, float]]:
    """(hits, misses, failures) so far."""

    def read() -> tuple[float, float, float]:
        def value(name: str, **labels: str) -> float:
            found = registry.get_sample_value(f"genmesh_embedding_cache_{name}_total", {"cache": "vectors", **labels})
            assert found is not None
            return found

        return value("lookups", outcome="hit"), value("lookups", outcome="miss"), value("failures")

    return read


async def written(cache: Cache) -> None:
    """Let writes beside the call end."""
    await asyncio.gather(*cache._writes)


async def settle() -> None:
    """Let every task run until it waits for a gate."""
    for _ in range(100):
        await asyncio.sleep(0)


# The local store


async def test_local_store_gives_back_what_was_put_in_the_order_asked() -> None:
    store = LocalStore(10, ttl=60)
    await store.put({"a": b"1", "b": b"2"})
    assert await store.get(["b", "x", "a"]) == [b"2", None, b"1"]


async def test_local_store_drops_the_least_recently_used() -> None:
    store = LocalStore(3, ttl=60)
    await store.put({"a": b"1", "b": b"2", "c": b"3"})
    await store.get(["a"])  # now b is the oldest
    await store.put({"c": b"4", "d": b"5"})
    assert await store.get(["a", "b", "c", "d"]) == [b"1", None, b"4", b"5"]


async def test_local_store_never_holds_more_than_its_bound() -> None:
    store = LocalStore(3, ttl=60)
    await store.put({str(i): b"" for i in range(100)})
    assert len(store._entries) == 3
    assert await store.get(["96", "97", "99"]) == [None, b"", b""]


async def test_local_store_forgets_after_the_ttl_counted_from_the_last_put(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    store = LocalStore(3, ttl=10)
    await store.put({"a": b"1", "b": b"1"})
    now[0] = 9
    await store.put({"b": b"2"})
    assert await store.get(["a", "b"]) == [b"1", b"2"]
    now[0] = 11
    assert await store.get(["a", "b"]) == [None, b"2"]


# Lookups


async def test_hits_and_misses_are_told_apart_and_counted(
    cache: Cache, as_tenant: AsTenant, lookups: Callable[[], tuple[float, float, float]]
) -> None:
    as_tenant("acme")
    one, two = cache.key("m@1", "one"), cache.key("m@1", "two")
    cache.put({one: b"1"})
    await written(cache)
    assert await cache.get([one, two]) == ([b"1", None], True)
    assert lookups() == (1, 1, 0)


async def test_two_tenants_never_share_an_entry(cache: Cache, as_tenant: AsTenant) -> None:
    as_tenant("acme")
    ours = cache.key("m@1", "text")
    cache.put({ours: b"secret"})
    await written(cache)
    as_tenant("other")
    theirs = cache.key("m@1", "text")
    assert theirs != ours
    assert await cache.get([theirs]) == ([None], True)
    as_tenant("acme")
    assert await cache.get([cache.key("m@1", "text")]) == ([b"secret"], True)


def test_tenants_and_kinds_cannot_run_into_each_other_in_a_key(
    cache: Cache, as_tenant: AsTenant, registry: CollectorRegistry
) -> None:
    keys = []
    for tenant in ("a", "a:b", "b", "a.b", "A"):
        as_tenant(tenant)
        keys += [cache.key("m@1", "x"), cache.key("m@2", "x"), cache.key("m@1", "y"), cache.key("m@1x")]
    cache.kind = "counts"
    keys.append(cache.key("m@1", "x"))
    assert len(set(keys)) == len(keys)


def test_a_key_may_hold_any_text(cache: Cache, as_tenant: AsTenant) -> None:
    as_tenant("acme")
    assert cache.key("m@1", "\ud800 \0 😀").isascii()


@pytest.mark.parametrize("failure", [RedisConnectionError("down"), OSError("down"), TimeoutError("slow")])
async def test_a_store_that_fails_is_a_miss_and_a_metric(
    cache: Cache, lookups: Callable[[], tuple[float, float, float]], failure: Exception
) -> None:
    cache.store = BrokenStore(failure)
    assert await cache.get(["a", "b"]) == ([None, None], False)
    assert lookups() == (0, 2, 1)


async def test_a_store_that_failed_rests_and_is_then_asked_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, lookups: Callable[[], tuple[float, float, float]]
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    broken = cache.store = BrokenStore(OSError("down"))
    for _ in range(3):
        assert await cache.get(["a"]) == ([None], False)
        cache.put({"a": b"1"})
        await written(cache)
    assert broken.asked == 1
    assert lookups() == (0, 3, 1)
    now[0] += module.REST_SECONDS + 0.1
    cache.store = LocalStore(10, 60)
    assert await cache.get(["a"]) == ([None], True)


async def test_a_put_that_fails_does_not_reach_the_caller(
    cache: Cache, lookups: Callable[[], tuple[float, float, float]]
) -> None:
    broken = cache.store = BrokenStore(OSError("full"))
    cache.put({"a": b"1"})
    await written(cache)
    assert broken.asked == 1
    assert lookups()[2] == 1


async def test_compute_answers_while_the_store_is_down(cache: Cache) -> None:
    cache.store = BrokenStore(OSError("down"))
    assert await cache.compute(["a", "b"], Work([b"1", b"2"])) == [b"1", b"2"]
    await written(cache)


# Computing


async def test_compute_asks_for_a_repeated_key_once_and_stores_the_values(cache: Cache) -> None:
    work = Work([b"1", b"2", b"1"])
    assert await cache.compute(["a", "b", "a"], work) == [b"1", b"2", b"1"]
    assert work.asked == [[0, 1]]
    await written(cache)
    assert await cache.get(["a", "b"]) == ([b"1", b"2"], True)


async def test_concurrent_callers_compute_each_key_once(cache: Cache) -> None:
    first, second = Work([b"a", b"b"], gated=True), Work([b"?", b"c"])
    one = asyncio.create_task(cache.compute(["a", "b"], first))
    await settle()
    two = asyncio.create_task(cache.compute(["b", "c"], second))
    await settle()
    assert second.asked == [[1]]
    assert not two.done()
    first.go.set()
    assert await asyncio.gather(one, two) == [[b"a", b"b"], [b"b", b"c"]]
    assert first.asked == [[0, 1]]
    assert not cache._flights


async def test_a_cancelled_computing_caller_does_not_fail_the_others(cache: Cache) -> None:
    first, second = Work([b"1", b"2"], gated=True), Work([b"?", b"2", b"1"])
    one = asyncio.create_task(cache.compute(["a", "b"], first))
    await settle()
    others = [asyncio.create_task(cache.compute(["c", "b", "a"], second)) for _ in range(2)]
    await settle()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert await asyncio.gather(*others) == [[b"?", b"2", b"1"]] * 2
    assert second.asked == [[0], [1, 2]]  # c by the first of the two, then what was lost, once
    assert not cache._flights


async def test_a_cancelled_waiting_caller_disturbs_nobody(cache: Cache) -> None:
    work = Work([b"1"], gated=True)
    one, two, three = (asyncio.create_task(cache.compute(["a"], work)) for _ in range(3))
    await settle()
    two.cancel()
    await settle()
    assert two.cancelled()
    work.go.set()
    assert await asyncio.gather(one, three) == [[b"1"], [b"1"]]
    assert work.asked == [[0]]


# A deadline is that of the call that computed: others may have longer.
@pytest.mark.parametrize("failure", [ValueError("broken"), DeadlineExceeded("broken")])
async def test_a_failing_computation_is_tried_again_by_those_who_waited_for_it(
    cache: Cache, failure: Exception
) -> None:
    bad, good = Work([b"1"], gated=True, failure=failure), Work([b"1"])
    one = asyncio.create_task(cache.compute(["a"], bad))
    await settle()
    two = asyncio.create_task(cache.compute(["a"], good))
    await settle()
    bad.go.set()
    with pytest.raises(type(failure), match="broken"):
        await one
    assert await two == [b"1"]
    assert await cache.compute(["a"], good) == [b"1"]
    assert not cache._flights


async def test_work_that_always_fails_ends_for_every_caller(cache: Cache) -> None:
    work = Work([b"1"], gated=True, failure=ValueError("broken"))
    tasks = [asyncio.create_task(cache.compute(["a"], work)) for _ in range(4)]
    await settle()
    work.go.set()
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(a) for a in answers] == [ValueError] * 4


async def test_close_waits_for_writes(cache: Cache) -> None:
    class SlowStore(LocalStore):
        stored = 0

        async def put(self, entries: Mapping[str, bytes]) -> None:
            await asyncio.sleep(0)
            self.stored += len(entries)

    store = cache.store = SlowStore(10, 60)
    cache.put({"a": b"1"})
    await cache.close()
    assert store.stored == 1


async def test_a_failure_of_a_service_is_that_of_all_who_wait_for_it(cache: Cache) -> None:
    work = Work([b"1"], gated=True, failure=Unavailable("away", reason="MODEL_UNAVAILABLE"))
    tasks = [asyncio.create_task(cache.compute(["a"], work)) for _ in range(4)]
    await settle()
    work.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer.reason for answer in answers if isinstance(answer, Unavailable)] == ["MODEL_UNAVAILABLE"] * 4
    assert len(work.asked) == 1
    assert len(set(map(id, answers))) > 1  # who changes one changes no other's
