"""What a call was, and the sums over many calls; sums of several processes add up exactly."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram

DROPPED = "DROPPED"  # never sent: too many calls were open already
LOST = "LOST"  # planned, and nobody told what became of it
CALLS = "calls.jsonl"  # where each call is told, if asked for


@dataclass(slots=True)
class Call:
    """One arrival and what became of it; times are seconds of this process's monotonic clock."""

    operation: str
    intended: float  # when it was due
    sent: float = 0.0  # when it was sent
    ended: float = 0.0
    first: float | None = None  # when the first message with content came
    gaps: list[float] = field(default_factory=list)  # seconds between messages with content
    input_tokens: int = 0
    output_tokens: int = 0
    received_bytes: int = 0
    server_ttft: float | None = None  # the server's own, seconds
    error: str = ""  # STATUS or STATUS/REASON; "" for a call that ended well

    def told(self, clock: float) -> dict[str, str | float | None]:
        """As a line of calls.jsonl: ``at`` in seconds since 1970, ``clock`` being what a monotonic time lacks to it."""
        return {
            "at": self.intended + clock, "operation": self.operation, "latency": self.latency, "ttft": self.ttft,
            "error": self.error,
        }  # fmt: skip

    @property
    def latency(self) -> float:
        """From when it was due: what a stalled server held up counts, sent or not."""
        return self.ended - self.intended

    @property
    def service_time(self) -> float:
        """From when it was sent."""
        return self.ended - self.sent

    @property
    def ttft(self) -> float | None:
        """To the first content, from when it was due."""
        return None if self.first is None else self.first - self.intended

    @property
    def ttft_sent(self) -> float | None:
        """To the first content, from when it was sent; what the server's own figure compares with."""
        return None if self.first is None else self.first - self.sent

    @property
    def mean_gap(self) -> float | None:
        """Inter-token latency of the whole call."""
        return statistics.fmean(self.gaps) if self.gaps else None

    @property
    def tokens_per_second(self) -> float | None:
        """What its caller sees: all its output tokens by its whole time from when it was sent."""
        return self.output_tokens / self.service_time if self.output_tokens and self.service_time > 0 else None

    def token_times(self) -> Iterator[tuple[float, int]]:
        """When its tokens came, evenly over its messages with content: moment and number."""
        if self.first is None:
            return
        moment, given, messages = self.first, 0, len(self.gaps) + 1
        for number, gap in enumerate((0.0, *self.gaps), 1):
            moment += gap
            until = self.output_tokens * number // messages
            yield moment, until - given
            given = until


HISTOGRAMS = (
    "latency", "service_time", "ttft", "ttft_sent", "ttft_server", "ttft_added", "itl", "itl_call", "tokens_per_second", "lag",
)  # fmt: skip
COUNTS = ("calls", "succeeded", "good", "input_tokens", "output_tokens", "received_bytes")


class Tally:
    """Sums over the calls of one operation. Histograms hold calls that ended well, in seconds (tokens a second)."""

    def __init__(self) -> None:
        self.calls = self.succeeded = self.good = 0
        self.input_tokens = self.output_tokens = self.received_bytes = 0
        self.errors: Counter[str] = Counter()
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    @property
    def failed(self) -> int:
        return self.calls - self.succeeded

    def add(self, call: Call, good: bool) -> None:
        self.calls += 1
        if call.error != DROPPED:
            self.histograms["lag"].add(call.sent - call.intended)
        if call.error:
            self.errors[call.error] += 1
            return
        self.succeeded += 1
        self.good += good
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.received_bytes += call.received_bytes
        added = call.ttft_sent - call.server_ttft if call.ttft_sent is not None and call.server_ttft else None
        for name, value in (
            ("latency", call.latency), ("service_time", call.service_time), ("ttft", call.ttft),
            ("ttft_sent", call.ttft_sent), ("ttft_server", call.server_ttft), ("ttft_added", added),
            ("itl_call", call.mean_gap), ("tokens_per_second", call.tokens_per_second),
        ):  # fmt: skip
            if value is not None:
                self.histograms[name].add(value)
        for gap in call.gaps:
            self.histograms["itl"].add(gap)

    def lose(self, number: int) -> None:
        """Count arrivals of which nobody told anything."""
        self.calls += number
        self.errors[LOST] += number

    def quantile(self, name: str, share: float) -> float | None:
        """Over all arrivals: one that failed or was dropped is slower than every one that ended well.

        Inter-token latency is over gaps, which failed calls have none of.
        """
        beyond = 0 if name in ("itl", "itl_call", "lag", "tokens_per_second") else self.failed
        found = self.histograms[name]
        return found.quantile(share, beyond) if found.count or name in ("latency", "service_time") else None

    def merge(self, other: Tally) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        for name, histogram in self.histograms.items():
            histogram.merge(other.histograms[name])

    def packed(self) -> dict[str, Any]:
        """As plain values, for another process."""
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "errors": dict(self.errors),
            "histograms": {name: dict(found.buckets) for name, found in self.histograms.items()},
        }

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Tally:
        found = cls()
        for name in COUNTS:
            setattr(found, name, packed[name])
        found.errors.update(packed["errors"])
        for name, buckets in packed["histograms"].items():
            found.histograms[name] = Histogram({int(key): count for key, count in buckets.items()})
        return found


SERIES = ("due", "ended", "failed", "tokens")


class Board:
    """The tallies of all operations, and how much happened in each second since the start."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.series: dict[str, dict[str, Counter[int]]] = {}  # operation, name of SERIES -> second -> how much

    def __getitem__(self, operation: str) -> Tally:
        return self.tallies.setdefault(operation, Tally())

    def add(self, call: Call, good: bool, start: float) -> None:
        """``start``: the clock's value when the run began."""
        self[call.operation].add(call, good)
        self.count(call.operation, "due", call.intended - start)
        self.count(call.operation, "failed" if call.error else "ended", call.ended - start)
        for moment, number in call.token_times():
            self.count(call.operation, "tokens", moment - start, number)

    def count(self, operation: str, name: str, at_seconds: float, number: int = 1) -> None:
        """Note that something happened, for the throughput over time."""
        found = self.series.setdefault(operation, {name: Counter() for name in SERIES})
        found[name][max(0, int(at_seconds))] += number

    def merge(self, packed: dict[str, Any]) -> None:
        """Add what another process packed."""
        for operation, tally in packed["tallies"].items():
            self[operation].merge(Tally.unpacked(tally))
        for operation, series in packed["series"].items():
            for name, counts in series.items():
                for second, number in counts.items():
                    self.count(operation, name, int(second), number)

    def packed(self) -> dict[str, Any]:
        return {
            "tallies": {operation: tally.packed() for operation, tally in self.tallies.items()},
            "series": {
                operation: {name: dict(counts) for name, counts in series.items()}
                for operation, series in self.series.items()
            },
        }

    @property
    def total_calls(self) -> int:
        return sum(tally.calls for tally in self.tallies.values())
