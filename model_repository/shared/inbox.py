"""Threads that a model cannot do without; the build copies this file beside each ``model.py`` that has one."""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def end_process(why: str) -> None:
    """End the model's process at once: Triton then refuses its requests, and serve.py starts Triton anew."""
    print(why, file=sys.stderr, flush=True)
    os._exit(1)


def supervised(name: str, loop: Callable[[], None], ended: Callable[[str], None] | None = None) -> threading.Thread:
    """Start a thread whose end by an exception is the model's end: requests would wait for it until their deadlines.

    ``ended`` is told why, in place of ``end_process``.
    """

    def run() -> None:
        try:
            loop()
        except BaseException as failure:
            traceback.print_exc()
            (ended or end_process)(f"the thread {name} ended: {type(failure).__name__}: {failure}")

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def work_off(inbox: queue.Queue[T | None], work: Callable[[T], None]) -> None:
    """Call ``work`` with each item, until None comes. What an item raises is logged and ends that item alone.

    It keeps no item while it waits for the next, for Triton unloads no model of which a request is kept. So
    does whoever works in a function of its own rather than in the loop.
    """
    while (item := inbox.get()) is not None:
        try:
            work(item)
        except Exception:
            traceback.print_exc()
        del item
