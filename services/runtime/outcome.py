"""What replies say about how they came about."""

from __future__ import annotations

import time

from genmesh.v1 import common_pb2 as common


def cache_info(*, hits: int, misses: int, answered: bool) -> common.CacheInfo:
    """A CacheInfo with its reason in words."""
    if not answered:
        status, reason = common.CACHE_STATUS_UNAVAILABLE, "the cache did not answer; all inputs were computed"
    elif not misses:
        status, reason = common.CACHE_STATUS_HIT, "all inputs found"
    elif not hits:
        status, reason = common.CACHE_STATUS_MISS, "no input found"
    else:
        status, reason = common.CACHE_STATUS_PARTIAL, f"{hits} of {hits + misses} inputs found"
    return common.CacheInfo(status=status, hits=hits, misses=misses, reason=reason)


class Stopwatch:
    """The stages of a call on the monotonic clock."""

    def __init__(self) -> None:
        self._begun = self._mark = time.monotonic()
        self._stages: list[common.StageTiming] = []
        self._first: float | None = None

    def stage(self, name: str) -> float:
        """End the stage that ran since the last mark; its seconds."""
        now = time.monotonic()
        took = now - self._mark
        self._stages.append(common.StageTiming(stage=name, duration_seconds=took))
        self._mark = now
        return took

    def content(self) -> None:
        """The first content leaves now; later calls change nothing."""
        if self._first is None:
            self._first = time.monotonic() - self._begun

    def timings(self) -> common.StageTimings:
        total = time.monotonic() - self._begun
        return common.StageTimings(
            stages=self._stages, total_seconds=total, time_to_first_token_seconds=self._first or 0
        )
