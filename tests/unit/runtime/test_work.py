"""Large work is done on threads, within a bound, as the call that it is for; small work at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from services.runtime import identity, work
from services.runtime.errors import InvalidArgument, ResourceExhausted
from services.runtime.work import ALWAYS, SMALL_BYTES, aside, together


async def test_small_work_stays_and_large_work_goes_to_a_thread_with_its_call(
    as_tenant: Callable[[str], None],
) -> None:
    as_tenant("acme")

    def where(one: int, *, other: int) -> tuple[bool, str, int]:
        return threading.current_thread() is threading.main_thread(), identity.current().tenant, one + other

    assert await aside(SMALL_BYTES, where, 1, other=2) == (True, "acme", 3)
    assert await aside(ALWAYS, where, 1, other=2) == (False, "acme", 3)


async def test_what_it_raises_is_raised() -> None:
    def refuse() -> None:
        raise InvalidArgument("no")

    for size in (0, ALWAYS):
        with pytest.raises(InvalidArgument):
            await aside(size, refuse)


async def test_the_queue_is_bounded_and_the_loop_goes_on() -> None:
    go_on, ran = threading.Event(), []

    def wait(number: int) -> int:
        go_on.wait()
        ran.append(number)
        return number

    waiting = [asyncio.create_task(aside(ALWAYS, wait, i)) for i in range(work.MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as refused:
        await aside(ALWAYS, wait, -1)
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("OVERLOADED", 1.0)
    assert await aside(1, lambda: "small work goes on") == "small work goes on"
    waiting[-1].cancel()  # its caller left before it began
    await asyncio.wait([waiting[-1]])
    go_on.set()
    assert await asyncio.gather(*waiting[:-1]) == list(range(work.MOST_WAITING - 1))
    assert sorted(ran) == list(range(work.MOST_WAITING - 1))
    assert await aside(ALWAYS, lambda: 1) == 1


async def test_where_one_of_several_fails_the_others_end() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise InvalidArgument("no")

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    with pytest.raises(InvalidArgument):
        await together([go_on(), fail(), go_on()])
    assert ended == ["ended"] * 2

    async def number(n: int) -> int:
        return n

    assert await together(number(n) for n in range(3)) == [0, 1, 2]
