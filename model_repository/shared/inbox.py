"""A queue that one thread works off; the build copies it beside each ``model.py`` that waits for requests this way."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def work_off(inbox: queue.Queue[T | None], work: Callable[[T], None]) -> None:
    """Call ``work`` with each item, until None comes.

    It keeps no item while it waits for the next, for Triton unloads no model of which a request is kept. So
    does whoever works in a function of its own rather than in the loop.
    """
    while (item := inbox.get()) is not None:
        work(item)
        del item
