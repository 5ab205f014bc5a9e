"""Quantiles, sums of several workers, goodput and objectives."""

from __future__ import annotations

import json
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import report
from loadtest.histogram import Histogram
from loadtest.measures import DROPPED, Board, Call
from loadtest.slo import NO_OBJECTIVE, Bounds, Objective, broken

VALUES = st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=200)


@given(VALUES, st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_within_half_a_percent(values: list[float], level: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(1, math.ceil(level * len(values) - 1e-9)) - 1]
    assert histogram.quantile(level) == pytest.approx(exact, rel=0.0051)


@given(VALUES, VALUES)
def test_merged_histograms_are_the_histogram_of_all(left: list[float], right: list[float]) -> None:
    one, two, both = Histogram(), Histogram(), Histogram()
    for histogram, values in ((one, left), (two, right), (both, left + right)):
        for value in values:
            histogram.add(value)
    one.merge(two)
    assert one.buckets == both.buckets
    assert both.points()[-1][1] == 1


def test_what_failed_ranks_above_all() -> None:
    histogram = Histogram()
    for value in range(1, 91):
        histogram.add(value)
    assert histogram.quantile(0.5, beyond=10) == pytest.approx(50, rel=0.01)
    assert histogram.quantile(0.9, beyond=10) == pytest.approx(90, rel=0.01)
    assert histogram.quantile(0.95, beyond=10) == math.inf
    assert Histogram().quantile(0.5) is None


def call(latency: float = 1.0, ttft: float | None = 0.2, error: str = "", late: float = 0.0, **facts: object) -> Call:
    """A call that was due at 100 s and sent ``late`` seconds after that; ``latency`` and ``ttft`` from when it was due."""
    first = None if ttft is None else 100 + ttft
    found = Call("chat", 100, sent=100 + late, ended=100 + latency, first=first, error=error)
    for name, value in facts.items():
        setattr(found, name, value)
    return found


def test_times_count_from_when_a_call_was_due() -> None:
    one = call(latency=3, ttft=2, late=1.5, gaps=[0.1, 0.3], output_tokens=6, server_ttft=0.4)
    assert (one.latency, one.service_time, one.ttft, one.ttft_sent) == (3, 1.5, 2, 0.5)
    assert one.mean_gap == pytest.approx(0.2)
    assert one.tokens_per_second == pytest.approx(4)
    assert list(one.token_times()) == [(102, 2), (pytest.approx(102.1), 2), (pytest.approx(102.4), 2)]
    board = Board()
    board.add(one, True, start=100)
    assert board["chat"].quantile("ttft_added", 0.5) == pytest.approx(0.1, rel=0.01)
    assert board["chat"].quantile("lag", 0.5) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize(
    ("bounds", "one", "good"),
    [
        ({}, call(), True),
        ({}, call(error="UNAVAILABLE"), False),
        ({"latency_ms": 1000}, call(latency=1.0), True),
        ({"latency_ms": 999}, call(latency=1.0), False),
        ({"latency_ms": 999}, call(latency=1.0, late=0.9), False),  # late, though served in 0.1 s
        ({"ttft_ms": 100}, call(ttft=0.2), False),
        ({"ttft_ms": 100}, call(ttft=None), False),
        ({"itl_ms": 50}, call(gaps=[0.02, 0.06]), True),
        ({"itl_ms": 50}, call(gaps=[0.02, 0.09]), False),
        ({"itl_ms": 50}, call(gaps=[]), True),
    ],
)
def test_a_good_call_keeps_its_bounds(bounds: dict[str, float], one: Call, good: bool) -> None:
    assert Bounds(**bounds).kept(one) is good


def board_of(calls: list[Call], objective: Objective = NO_OBJECTIVE) -> Board:
    board = Board()
    for one in calls:
        board.add(one, objective.call.kept(one), start=100)
    return board


MANY = [call(latency=n / 100, ttft=n / 1000) for n in range(1, 101)]  # p95: latency 950 ms, TTFT 95 ms
FEW_FAIL = [*MANY[:92], *[call(error="DEADLINE_EXCEEDED")] * 5, *[call(error=DROPPED)] * 3]


@pytest.mark.parametrize(
    ("wanted", "calls", "told"),
    [
        ({"latency_p95_ms": 960}, MANY, None),
        ({"latency_p95_ms": 940}, MANY, r"chat: latency_p95_ms was 9\d\d.\d ms; at most 940 ms is wanted."),
        ({"ttft_p95_ms": 80}, MANY, r"chat: ttft_p95_ms was 9\d.\d ms; at most 80 ms is wanted."),
        ({"latency_p95_ms": 5000}, FEW_FAIL, r"latency_p95_ms has no value, since 8 of 100 arrivals failed"),
        ({"latency_p50_ms": 600}, FEW_FAIL, None),
        ({"itl_p95_ms": 80}, MANY, "itl_p95_ms was not measured in 100 arrivals"),
        ({"error_rate": 0.08}, FEW_FAIL, None),
        ({"error_rate": 0.07}, FEW_FAIL, r"error_rate was 8.0% of 100 arrivals \(DEADLINE_EXCEEDED 5, DROPPED 3\)"),
        ({"call": {"latency_ms": 500}, "goodput": 0.5}, MANY, None),
        ({"call": {"latency_ms": 500}, "goodput": 0.51}, MANY, "goodput was 50.0% of 100 arrivals; at least 51.0%"),
    ],
)
def test_broken_objectives_are_told_with_what_was_measured(
    wanted: dict[str, object], calls: list[Call], told: str | None
) -> None:
    objective = Objective.model_validate(wanted)
    found = broken({"chat": objective}, board_of(calls, objective), ["chat"])
    assert len(found) == (told is not None)
    assert all(re.search(told or "", text) for text in found), found


def test_no_call_at_all_keeps_nothing() -> None:
    assert broken({}, Board(), ["chat"]) == ["no call was made, so nothing is known of any objective."]


def test_lost_arrivals_count_as_failed() -> None:
    board = board_of(MANY)
    board["chat"].lose(25)
    objective = Objective.model_validate({"goodput": 0.9, "error_rate": 0.1})
    assert len(broken({"chat": objective}, board, ["chat"])) == 2
    assert report.rows(board, 10)[0]["goodput_percent"] == 80


def test_workers_sums_add_up_exactly() -> None:
    draw = random.Random(1)
    calls = [
        call(latency=draw.expovariate(1), ttft=draw.random(), gaps=[draw.random()], output_tokens=2,
             error=draw.choice(["", "", "UNAVAILABLE", DROPPED]))
        for _ in range(300)
    ]  # fmt: skip
    whole, joined = board_of(calls), Board()
    for worker in range(3):
        # As it travels to the master, keys become text.
        joined.merge(json.loads(json.dumps(board_of(calls[worker::3]).packed())))
    assert joined.packed() == whole.packed()
    assert report.rows(joined, 30) == report.rows(whole, 30)


def test_rows_and_table() -> None:
    board = board_of([*MANY, call(error="X")])
    (row,) = report.rows(board, elapsed=20)
    assert (row["arrivals"], row["failed"], row["dropped"]) == (101, 1, 0)
    assert row["good_per_second"] == 5
    assert row["latency_p99_ms"] == pytest.approx(1000, rel=0.01)
    assert "TTFT" in report.table([row])
    assert "ITL" not in report.table([row])  # nothing of it was measured
    assert report.as_csv([row]).splitlines()[0].startswith("operation,arrivals,failed")
    board["chat"].lose(10)
    assert report.rows(board, 20)[0]["latency_p95_ms"] == "inf"
