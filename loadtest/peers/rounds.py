"""Alternating rounds, and what is read from their samples."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

SETTLE_SECONDS = 0.2  # what a contender left to do has ended before the next one is timed
Metrics = dict[str, float]
# contender -> metric -> a value a round
Samples = dict[str, dict[str, list[float]]]
Contender = Callable[[int], Awaitable[Metrics]]


async def alternate(contenders: Mapping[str, Contender], rounds: int) -> Samples:
    """Each round runs each contender once with the round's number; who begins changes, then the direction."""
    names = list(contenders)
    samples: Samples = {name: {} for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        order = names[start:] + names[:start]
        for name in order if (turn // len(names)) % 2 == 0 else order[::-1]:
            for metric, value in (await contenders[name](turn)).items():
                samples[name].setdefault(metric, []).append(value)
            await asyncio.sleep(SETTLE_SECONDS)
    return samples


def figure(value: float) -> str:
    """Three digits, whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float], form: str = "") -> str:
    """Median (least to greatest)."""
    shown = [form.format(v) if form else figure(v) for v in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def ratios(samples: Samples, metric: str, ours: str, theirs: str) -> list[float]:
    """Ours over theirs, round by round."""
    return [a / b for a, b in zip(samples[ours][metric], samples[theirs][metric], strict=True)]


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log(cost) over log(size), least squares: 1 is linear, 0 constant."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(xs, ys).slope


def growth(slope: float) -> str:
    """A slope in words."""
    if abs(slope) < 0.1:
        return "constant"
    if slope < 0:
        return "falling"
    if slope < 0.9:
        return "less than linear"
    return "linear" if slope <= 1.1 else "more than linear" if slope < 1.9 else "quadratic or more"
