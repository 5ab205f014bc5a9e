"""The deadline of the call at hand, for those that it leads to."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar

LEAST_SECONDS = 0.001
_at: ContextVar[float] = ContextVar("deadline", default=math.inf)


def enter(seconds: float) -> None:
    """The call that this task serves has so long."""
    _at.set(time.monotonic() + seconds)


def left(most: float) -> float:
    """Seconds until the deadline, at most ``most``, which it is outside a call."""
    return max(LEAST_SECONDS, min(most, _at.get() - time.monotonic()))
