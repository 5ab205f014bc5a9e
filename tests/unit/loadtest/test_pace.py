"""A paced user's calls are measured from when they were due."""

from __future__ import annotations

import pytest

from loadtest.pace import Pace


def served(pace: Pace, stall_at: float, stall: float, until: float) -> list[tuple[float, float]]:
    """Latency and service time of calls that take 10 ms each, one of them ``stall`` seconds more."""
    now, found, stalled = 0.0, [], False
    while now < until:
        now += pace.wait(now)
        due, sent = pace.take(now), now
        slow = not stalled and now >= stall_at
        stalled = stalled or slow
        now += 0.01 + (stall if slow else 0)
        found.append((now - due, now - sent))
    return found


def test_a_stall_shows_in_the_calls_behind_it() -> None:
    found = served(Pace(10, 0), stall_at=2, stall=1, until=5)
    assert len(found) == pytest.approx(50, abs=1)
    assert sum(sent > 0.5 for _, sent in found) == 1  # all that an uncorrected measurement sees
    late = [latency for latency, _ in found if latency > 0.05]
    # Calls due each 100 ms behind the stall wait 1.01, 0.92, 0.83 ... seconds.
    assert late == pytest.approx([1.01 - 0.09 * n for n in range(11)], abs=1e-6)


def test_without_a_pace_a_call_is_due_when_it_starts() -> None:
    pace = Pace(None, 0)
    assert (pace.wait(5), pace.take(5), pace.wait(7), pace.take(7)) == (0, 5, 0, 7)
