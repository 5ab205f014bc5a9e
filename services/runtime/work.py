"""Work of the processor beside the event loop, so that one large request does not hold up all the others."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from services.runtime.errors import ResourceExhausted

P = ParamSpec("P")
T = TypeVar("T")
# What is smaller takes less time than a thread.
SMALL_BYTES = 64 * 2**10
ALWAYS = SMALL_BYTES + 1  # for work that is much larger than its input, as an image's file
THREADS, MOST_WAITING = 2, 64
# How long a thread of Python's may run while the event loop waits for its turn; each call that the loop serves waits
# for some turns.
SWITCH_SECONDS = 0.0005


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each call returns; where one fails the others are cancelled, and its failure is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="work")
_waiting = 0


async def aside(size: int, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What ``work`` returns; on a thread where its input has more than SMALL_BYTES. OVERLOADED where too many wait for
    one."""
    global _waiting
    if size <= SMALL_BYTES:
        return work(*args, **more)
    if _waiting >= MOST_WAITING:
        text = f"{MOST_WAITING} requests of more than {SMALL_BYTES} bytes wait already"
        raise ResourceExhausted(text, reason="OVERLOADED", retry_after_seconds=1.0)
    _waiting += 1
    try:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(_pool, lambda: context.run(work, *args, **more))
    finally:
        _waiting -= 1
