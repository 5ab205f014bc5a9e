"""Which replica a call gets. DNS and the replicas are fakes here: what counts is who is chosen after which fault."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import ExitStack

import pytest

from services.runtime import replicas
from services.runtime.replicas import BOUND, FEW, RETRY_TOKENS, Replicas, named, resolve


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
        if self.addresses is None:
            raise OSError("no answer")
        return self.addresses

    async def __aenter__(self) -> World:
        await self.replicas.ready()
        await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replicas.close()

    def chosen(self, key: str = "") -> str:
        with self.replicas.borrow(key) as replica:
            return replica.address


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("RESOLVE_SECONDS", 0.02),
        ("PROBE_SECONDS", 0.02),
        ("PROBE_TIMEOUT_SECONDS", 0.05),
        ("LEAVING_SECONDS", 0.3),
        ("LACKING_SECONDS", 0.3),
        ("PROBES_A_SECOND", 10_000),
    ):
        monkeypatch.setattr(replicas, name, seconds)


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
    monkeypatch.setattr(replicas, "PROBES_A_SECOND", 400)
    async with World(*(f"r{number}" for number in range(400))) as world:
        known = list(world.replicas.known.values())
        before = sum(one.client.probes for one in known)
        assert before >= 400
        known[0].client.well = False
        world.replicas.lost(known[0])
        await asyncio.sleep(0.3)  # of the second in which each is asked once
        assert known[0].out
        assert sum(one.client.probes for one in known[1:]) < before
        await asyncio.sleep(1.0)
        assert sum(one.client.probes for one in known[1:]) >= before


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
        await asyncio.sleep(0.1)
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
        await asyncio.sleep(0.05)
        broken = world.replicas.known["a"]
        broken.client.well = False
        world.replicas.lost(broken)
        assert {world.chosen() for _ in range(10)} == {"b"}
        await asyncio.sleep(0.1)
        assert {world.chosen() for _ in range(10)} == {"b"}
        assert world.told[-1] == (1, 1)
        broken.client.well = True
        await asyncio.sleep(0.1)
        assert {world.chosen() for _ in range(10)} == {"a", "b"}
        assert world.told[-1] == (2, 0)


async def test_a_replica_that_hangs_is_left_without_a_call_that_fails() -> None:
    async with World("a", "b") as world:
        world.replicas.known["a"].client.hangs = True
        await asyncio.sleep(0.3)
        assert {world.chosen() for _ in range(10)} == {"b"}


async def test_where_none_answers_any_is_tried() -> None:
    async with World("a", "b") as world:
        for replica in world.replicas.known.values():
            replica.client.well = False
        await asyncio.sleep(0.2)
        assert world.told[-1] == (0, 2)
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
        await asyncio.sleep(0.1)
        assert world.chosen() == "a"


async def test_a_replica_that_left_ends_some_time_after_its_last_call() -> None:
    async with World("a", "b") as world:
        with world.replicas.borrow("", [world.replicas.known["b"]]) as old:
            world.addresses = ["b"]
            await asyncio.sleep(0.1)
            assert old.address == "a"
            assert {world.chosen() for _ in range(10)} == {"b"}
            await asyncio.sleep(0.4)
            assert not old.client.closed
        await asyncio.sleep(0.05)
        assert old.client.closed


async def test_a_replica_without_calls_ends_some_time_after_it_left() -> None:
    async with World("a", "b") as world:
        old = world.replicas.known["a"]
        world.addresses = ["b"]
        await asyncio.sleep(0.1)
        assert not old.client.closed
        await asyncio.sleep(0.4)
        assert old.client.closed


async def test_what_one_replica_lacks_another_is_asked_for() -> None:
    async with World("a", "b") as world:
        a, b = world.replicas.known.values()
        assert world.replicas.without(a, "generator/2", [a])
        assert {pick(world, "generator/2") for _ in range(10)} == {"b"}
        assert {pick(world, "generator/1") for _ in range(10)} == {"a", "b"}
        assert not world.replicas.without(b, "generator/2", [a, b])
        await asyncio.sleep(0.4)  # it may have it by now
        assert {pick(world, "generator/2") for _ in range(10)} == {"a", "b"}


async def test_what_only_a_leaving_replica_has_it_is_asked_for() -> None:
    """A service's old pods ask for the old version while Triton's old pods end."""
    async with World("old") as world:
        world.addresses = ["new"]
        await asyncio.sleep(0.1)
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
