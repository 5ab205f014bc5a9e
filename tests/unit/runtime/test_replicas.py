"""Which replica a call gets. DNS and the replicas are fakes here: what counts is who is chosen after which fault."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from services.runtime import replicas
from services.runtime.replicas import (
    BOUND,
    FEW,
    LACKING_SECONDS,
    LEAVING_SECONDS,
    RETRY_TOKENS,
    Replicas,
    named,
    resolve,
)
from tests.waiting import eventually


class Client:
    def __init__(self, address: str) -> None:
        self.address, self.well, self.hangs, self.closed = address, True, False, False
        self.probes = 0

    async def close(self) -> None:
        self.closed = True

    async def probe(self) -> bool:
        self.probes += 1
        if self.hangs:
            await asyncio.sleep(3600)
        return self.well


class World:
    """Replicas behind a name whose addresses a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: list[str] | None = list(addresses)
        self.told: list[tuple[int, int]] = []
        self.resolved, self.hangs = 0, False
        self.replicas: Replicas[Client] = Replicas(
            "dns:///triton:8001",
            Client,
            Client.probe,
            Client.probe,
            lambda *counts: self.told.append(counts),
            self._resolve,
        )

    async def _resolve(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("triton", 8001)
        self.resolved += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.addresses is None:
            raise OSError("no answer")
        return self.addresses

    async def __aenter__(self) -> World:
        await self.replicas.ready()
        await eventually(lambda: all(replica.usable for replica in self.replicas.known.values()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replicas.close()

    async def look(self) -> None:
        """Wait until DNS was asked, and its answer taken in."""
        wanted = self.resolved + 2
        await eventually(lambda: self.resolved >= wanted)

    async def look_once(self) -> None:
        """Wait until DNS is asked."""
        wanted = self.resolved + 1
        await eventually(lambda: self.resolved >= wanted)

    def chosen(self, key: str = "") -> str:
        with self.replicas.borrow(key) as replica:
            return replica.address


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Looks and probes follow at once; what lasts some seconds lasts until a test moves the clock."""
    for name, value in (
        ("RESOLVE_SECONDS", 0.0),
        ("PROBE_SECONDS", 0.001),
        ("PROBE_TIMEOUT_SECONDS", 0.05),
        ("PROBES_A_SECOND", 1e9),
    ):
        monkeypatch.setattr(replicas, name, value)
    now = [100.0]
    monkeypatch.setattr(replicas, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("url", ["dns:///triton.default.svc:8001", "triton.default.svc:8001"])
def test_names(url: str) -> None:
    assert named(url) == ("triton.default.svc", 8001)


async def test_localhost_is_one_server() -> None:
    assert await resolve("localhost", 80) == ["127.0.0.1:80"]
    assert named("[::1]:80") == ("::1", 80)
    assert await resolve("::1", 80) == ["[::1]:80"]


async def test_many_replicas_are_probed_less_often_and_one_that_lost_a_call_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replicas, "PROBES_A_SECOND", 0.001)  # each of them once in 400,000 seconds
    async with World(*(f"r{number}" for number in range(400))) as world:
        lost, *others = world.replicas.known.values()
        lost.client.well = False
        world.replicas.lost(lost)
        await eventually(lambda: lost.out and lost.client.probes > 9)
        assert {one.client.probes for one in others} == {1}
        monkeypatch.setattr(replicas, "PROBES_A_SECOND", 1e9)
        await eventually(lambda: all(one.client.probes > 1 for one in others))


async def test_replicas_are_probed_while_dns_hangs() -> None:
    async with World("a", "b") as world:
        world.hangs = True
        await world.look_once()
        resolved, (lost, _) = world.resolved, world.replicas.known.values()
        world.replicas.lost(lost)
        assert not lost.usable
        await eventually(lambda: lost.usable)
        assert world.resolved == resolved  # one question at a time


async def test_idle_replicas_take_turns() -> None:
    async with World("a", "b", "c") as world:
        assert set(Counter(world.chosen() for _ in range(30)).values()) == {10}


async def test_a_busy_replica_waits_for_the_others() -> None:
    async with World("a", "b") as world, AsyncExit() as stack:
        busy = stack.enter_context(world.replicas.borrow())
        stack.enter_context(world.replicas.borrow("", [r for r in world.replicas.known.values() if r is not busy]))
        assert {world.chosen() for _ in range(10)} == {"a", "b"} - {busy.address}


class AsyncExit(ExitStack):
    async def __aenter__(self) -> AsyncExit:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def test_a_prefix_keeps_its_replica_and_moves_only_where_its_own_left() -> None:
    keys = [f"conversation {i}" for i in range(300)]
    async with World("a", "b", "c") as world:
        before = {key: world.chosen(key) for key in keys}
        assert before == {key: world.chosen(key) for key in keys}
        assert all(70 < n < 130 for n in Counter(before.values()).values())
        world.addresses = ["a", "b"]
        await world.look()
        after = {key: world.chosen(key) for key in keys}
        assert all(after[key] == where for key, where in before.items() if where != "c")
        assert set(after.values()) == {"a", "b"}


async def test_no_replica_has_more_than_its_bounded_share_of_one_prefix() -> None:
    async with World("a", "b", "c") as world, AsyncExit() as stack:
        running: Counter[str] = Counter()
        for i in range(60):
            running[stack.enter_context(world.replicas.borrow("the same for all")).address] += 1
            assert max(running.values()) <= max(FEW, math.ceil(BOUND * (i + 1) / 3))


async def test_a_call_that_was_lost_takes_its_replica_out_until_a_probe_is_answered() -> None:
    async with World("a", "b") as world:
        broken = world.replicas.known["a"]
        broken.client.well = False
        world.replicas.lost(broken)
        assert {world.chosen() for _ in range(10)} == {"b"}
        await eventually(lambda: world.told[-1] == (1, 1))
        assert {world.chosen() for _ in range(10)} == {"b"}
        broken.client.well = True
        await eventually(lambda: world.told[-1] == (2, 0))
        assert {world.chosen() for _ in range(10)} == {"a", "b"}


async def test_a_replica_that_hangs_is_left_without_a_call_that_fails() -> None:
    async with World("a", "b") as world:
        world.replicas.known["a"].client.hangs = True
        await eventually(lambda: world.replicas.known["a"].out)
        assert {world.chosen() for _ in range(10)} == {"b"}


async def test_where_none_answers_any_is_tried() -> None:
    async with World("a", "b") as world:
        for replica in world.replicas.known.values():
            replica.client.well = False
        await eventually(lambda: world.told[-1] == (0, 2))
        assert {world.chosen() for _ in range(10)} == {"a", "b"}


async def test_without_an_address_there_is_none() -> None:
    async with World() as world:
        with pytest.raises(LookupError, match="triton:8001 has no address"):
            world.chosen()
        world.addresses = ["a"]
        await world.replicas.ready()
        assert world.chosen() == "a"


async def test_dns_being_away_takes_no_replica_away() -> None:
    async with World("a") as world:
        world.addresses = None
        await world.look()
        assert world.chosen() == "a"


async def test_a_replica_that_left_ends_some_time_after_its_last_call(clock: list[float]) -> None:
    async with World("a", "b") as world:
        with world.replicas.borrow("", [world.replicas.known["b"]]) as old:
            world.addresses = ["b"]
            await world.look()
            assert old.address == "a"
            assert {world.chosen() for _ in range(10)} == {"b"}
            clock[0] += LEAVING_SECONDS + 1
            await world.look()
            assert not old.client.closed
        await eventually(lambda: old.client.closed)


async def test_a_replica_without_calls_ends_some_time_after_it_left(clock: list[float]) -> None:
    async with World("a", "b") as world:
        old = world.replicas.known["a"]
        world.addresses = ["b"]
        await world.look()
        clock[0] += LEAVING_SECONDS - 1
        await world.look()
        assert not old.client.closed
        clock[0] += 2
        await eventually(lambda: old.client.closed)


async def test_what_one_replica_lacks_another_is_asked_for(clock: list[float]) -> None:
    async with World("a", "b") as world:
        a, b = world.replicas.known.values()
        assert world.replicas.without(a, "generator/2", [a])
        assert {pick(world, "generator/2") for _ in range(10)} == {"b"}
        assert {pick(world, "generator/1") for _ in range(10)} == {"a", "b"}
        assert not world.replicas.without(b, "generator/2", [a, b])
        clock[0] += LACKING_SECONDS + 1  # it may have it by now
        assert {pick(world, "generator/2") for _ in range(10)} == {"a", "b"}


async def test_what_only_a_leaving_replica_has_it_is_asked_for() -> None:
    """A service's old pods ask for the old version while Triton's old pods end."""
    async with World("old") as world:
        world.addresses = ["new"]
        await eventually(lambda: "new" in world.replicas.known and world.replicas.known["new"].usable)
        assert world.replicas.without(world.replicas.known["new"], "generator/1", [world.replicas.known["new"]])
        assert {pick(world, "generator/1") for _ in range(10)} == {"old"}
        assert {pick(world, "generator/2") for _ in range(10)} == {"new"}


def pick(world: World, what: str) -> str:
    with world.replicas.borrow(what=what) as replica:
        return replica.address


async def test_retries_have_a_budget_and_another_replica() -> None:
    async with World("a", "b") as world:
        a, b = world.replicas.known.values()
        assert not world.replicas.again([a, b])
        allowed = sum(world.replicas.again([a]) for _ in range(50))
        assert allowed == RETRY_TOKENS
        for _ in range(10):
            world.replicas.answered()
        assert sum(world.replicas.again([a]) for _ in range(50)) <= 1
