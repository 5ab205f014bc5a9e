"""The search for the highest rate, and the report of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import arrivals, scenarios
from loadtest.capacity import Bracket, conclusion, fair_seed, search


@given(st.floats(0.06, 1500), st.floats(0.1, 1000))
def test_the_limit_is_found_within_ten_percent(limit: float, start: float) -> None:
    tried = []

    def probe(rate: float, confirms: bool) -> bool:
        tried.append((rate, confirms))
        return rate <= limit

    found = search(probe, start, least=0.05, most=2000)
    assert found.kept is not None
    assert found.kept <= limit < found.broke <= found.kept * 1.1000001
    assert tried[-1] == (found.kept, True)
    assert len(tried) < 30


def test_doubles_first() -> None:
    tried: list[float] = []
    search(lambda rate, confirms: tried.append(rate) or rate < 50, 2, 0.05, 2000)
    assert tried[:6] == [2, 4, 8, 16, 32, 64]


def test_nothing_keeps_or_all_does() -> None:
    assert search(lambda rate, confirms: False, 4, 0.5, 100) == Bracket(None, 0.5)
    assert search(lambda rate, confirms: True, 4, 0.5, 100) == Bracket(100, math.inf)


def test_a_rate_that_is_not_confirmed_is_none() -> None:
    found = search(lambda rate, confirms: rate <= (20 if confirms else 30), 4, 0.5, 100)
    assert found.kept is not None
    assert found.kept <= 20 < found.broke <= found.kept * 1.1000001


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Bracket(12.34, 13.1), "chat keeps its SLO up to 12.3 arrivals a second; it breaks at 13.1."),
        (Bracket(None, 0.05), "chat: no rate kept the SLO; the lowest tried was 0.05 arrivals a second."),
        (Bracket(2000, math.inf), "chat keeps its SLO at 2e+03 arrivals a second, the highest rate tried."),
    ],
)
def test_conclusion(found: Bracket, told: str) -> None:
    assert conclusion("chat", found) == told


@pytest.mark.parametrize(("rate", "seconds"), [(0.5, 20), (4, 15), (300, 15)])
def test_a_step_has_the_arrivals_that_its_rate_says(rate: float, seconds: float) -> None:
    chat = scenarios.pick("chat")
    for first in (1, 1001):
        seed = fair_seed(chat, rate, seconds, first)
        assert seed >= first
        number = len(arrivals.plan(arrivals.changed(chat, rate, seconds, seed)))
        assert number == pytest.approx(rate * seconds, abs=1, rel=0.02)
