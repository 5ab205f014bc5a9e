"""The event loop of a service: it knows since when a call that begins now may have waited for its turn.

A call's bytes are read by gRPC's own thread. If the loop was busy then, the call's handler begins later; durations that
began there would hide the wait.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from prometheus_client import Histogram

LAG_EVERY_SECONDS = 0.1
# From the turn of the loop that takes note of a call's bytes to the turn in which its handler begins.
TURNS = 8
# A look at the selector that takes less found what had come while the loop was busy.
AT_ONCE_SECONDS = 0.0002


class Turns(selectors.DefaultSelector):
    """Notes for each turn of the loop since when what it found may have been there."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = time.monotonic()
        self.since: deque[float] = deque([self._ended], maxlen=TURNS)

    def select(self, timeout: float | None = None) -> Any:
        asked = time.monotonic()
        found = super().select(timeout)
        now = time.monotonic()
        # What is found at once came while the turn before ran, at the earliest when that one began.
        self.since.append(self._ended if now - asked < AT_ONCE_SECONDS else now)
        self._ended = now
        return found


_turns: Turns | None = None


def arrived() -> float:
    """The earliest time (monotonic) at which the bytes of a call that begins now can have come; now outside ``run``."""
    return _turns.since[0] if _turns is not None else time.monotonic()


def run(main: Coroutine[Any, Any, None]) -> None:
    """As ``asyncio.run``."""
    global _turns
    turns = _turns = Turns()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        runner.run(main)


async def watch(lag: Histogram) -> None:
    """Observe ten times a second how late the loop is."""
    while True:
        due = time.monotonic() + LAG_EVERY_SECONDS
        await asyncio.sleep(LAG_EVERY_SECONDS)
        lag.observe(max(0.0, time.monotonic() - due))
