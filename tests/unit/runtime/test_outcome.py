"""CacheInfo in words, and the stopwatch of a call's stages."""

import pytest
from genmesh.v1 import common_pb2 as common

from services.runtime import outcome
from services.runtime.outcome import Stopwatch, cache_info


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(outcome, "time", found)
    return found


@pytest.mark.parametrize(
    ("hits", "misses", "answered", "status", "word"),
    [
        (3, 0, True, common.CACHE_STATUS_HIT, "all inputs found"),
        (0, 3, True, common.CACHE_STATUS_MISS, "no input found"),
        (1, 2, True, common.CACHE_STATUS_PARTIAL, "1 of 3 inputs found"),
        (0, 3, False, common.CACHE_STATUS_UNAVAILABLE, "did not answer"),
    ],
)
def test_cache_info(hits: int, misses: int, answered: bool, status: int, word: str) -> None:
    info = cache_info(hits=hits, misses=misses, answered=answered)
    assert (info.status, info.hits, info.misses) == (status, hits, misses)
    assert word in info.reason


def test_stages_are_timed_from_mark_to_mark(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 1
    assert watch.stage("embed") == 1
    clock.now += 2
    assert watch.stage("search") == 2
    clock.now += 4
    timings = watch.timings()
    assert [(s.stage, s.duration_seconds) for s in timings.stages] == [("embed", 1), ("search", 2)]
    assert timings.total_seconds == 7


def test_time_to_first_token_is_that_of_the_first_content(clock: Clock) -> None:
    watch = Stopwatch()
    assert watch.timings().time_to_first_token_seconds == 0
    clock.now += 3
    watch.content()
    clock.now += 3
    watch.content()
    assert watch.timings().time_to_first_token_seconds == 3
