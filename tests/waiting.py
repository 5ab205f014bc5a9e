"""Wait for what a test expects. The limits only end a hang: no test says how long something takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT_SECONDS = 120.0


def until(condition: Callable[[], object], seconds: float = LIMIT_SECONDS, every: float = 0.2) -> None:
    """Ask every so often until the condition holds; fail after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every)


async def eventually(condition: Callable[[], object], seconds: float = LIMIT_SECONDS) -> None:
    """The same on an event loop, which goes on meanwhile."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)
