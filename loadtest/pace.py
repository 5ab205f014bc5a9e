"""When a closed-loop user means to ask."""

from __future__ import annotations


class Pace:
    """When a user means to ask: at even distances from its start, or as soon as it can.

    A user that is held up asks at once when it can again, and each of those calls is still measured from
    when it was due: a stall is felt by all calls behind it, as in an open loop.
    """

    def __init__(self, calls_per_second: float | None, start: float) -> None:
        self.period = 1 / calls_per_second if calls_per_second else 0.0
        self.due = start

    def wait(self, now: float) -> float:
        """Seconds until the next call is due."""
        return max(0.0, self.due - now)

    def take(self, now: float) -> float:
        """The moment at which the call that starts now was due."""
        if not self.period:
            return now
        due, self.due = self.due, self.due + self.period
        return due
