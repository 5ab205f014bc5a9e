"""Counts of values in buckets that grow by 1 %: any quantile within 0.5 %, few bytes, and two add up exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = math.log(1.01)
LEAST = 1e-6  # smaller values count as this one


class Histogram:
    """Positive values of any unit."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def add(self, value: float, times: int = 1) -> None:
        self.buckets[round(math.log(max(value, LEAST) / LEAST) / GROWTH)] += times

    def merge(self, other: Histogram) -> None:
        self.buckets.update(other.buckets)

    @property
    def count(self) -> int:
        return self.buckets.total()

    def quantile(self, share: float, beyond: int = 0) -> float | None:
        """The least value that ``share`` (0 to 1) of all values keep; None where there is no value at all.

        ``beyond``: how many more there were that have no value since they never ended well; they rank
        above every value, and a quantile that falls among them is infinite.
        """
        total = self.count + beyond
        if total == 0:
            return None
        rank = max(1, math.ceil(share * total - 1e-9))
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return LEAST * math.exp(bucket * GROWTH)
        return math.inf

    def points(self) -> list[tuple[float, float]]:
        """The distribution: each value with the share of values up to it."""
        seen, total, found = 0, self.count, []
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            found.append((LEAST * math.exp(bucket * GROWTH), seen / total))
        return found
