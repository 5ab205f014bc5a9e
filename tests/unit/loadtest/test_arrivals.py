"""When calls arrive: rates, seeds, workers' shares, traces."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import changed, mean_rate, plan, read_trace, share, times
from loadtest.scenarios import Burst, Constant, Poisson, Process, Ramp, Scenario, ScenarioError

PROCESSES: dict[str, Process] = {
    "constant": Constant(kind="constant", rate=20),
    "poisson": Poisson(kind="poisson", rate=20),
    "ramp": Ramp(kind="ramp", start_rate=0, end_rate=40),
    "burst": Burst(kind="burst", rate=10, burst_rate=60, burst_seconds=1, every_seconds=5),
}


def scenario(**changes: object) -> Scenario:
    entry = {
        "about": "x", "mix": {"chat": {"weight": 3}, "embed": {"weight": 1}}, "arrivals": {"kind": "poisson", "rate": 30},
        "duration_seconds": 60,
    }  # fmt: skip
    return Scenario.model_validate(entry | changes)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_mean_rate_is_kept(process: Process) -> None:
    found = list(times(process, 500, seed=1))
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < 500
    assert len(found) / 500 == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_seed_decides(process: Process) -> None:
    first, again, other = (list(times(process, 50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert (first == other) == isinstance(process, Constant)


def test_constant_gaps_are_equal() -> None:
    assert list(times(Constant(kind="constant", rate=4), 1, seed=1)) == [0, 0.25, 0.5, 0.75]
    assert len(list(times(Constant(kind="constant", rate=0.1), 30, seed=1))) == 3


def test_poisson_gaps_are_exponential() -> None:
    found = list(times(Poisson(kind="poisson", rate=10), 2000, seed=3))
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert statistics.fmean(gaps) == pytest.approx(0.1, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.1, rel=0.05)  # of an exponential: its mean
    assert statistics.median(gaps) == pytest.approx(0.1 * 0.6931, rel=0.05)


def test_ramp_rises_evenly() -> None:
    found = list(times(Ramp(kind="ramp", start_rate=0, end_rate=40), 500, seed=1))
    quarters = Counter(int(at / 125) for at in found)
    assert [quarters[n] / 125 for n in range(4)] == pytest.approx([5, 15, 25, 35], rel=0.15)


def test_bursts_are_where_they_should_be() -> None:
    burst = Burst(kind="burst", rate=10, burst_rate=60, burst_seconds=1, every_seconds=5)
    inside = [at % 5 < 1 for at in times(burst, 500, seed=1)]
    assert sum(inside) / 100 == pytest.approx(60, rel=0.1)
    assert (len(inside) - sum(inside)) / 400 == pytest.approx(10, rel=0.1)


@given(st.integers(1, 9), st.integers(0, 5))
def test_the_workers_shares_are_the_whole_plan(workers: int, seed: int) -> None:
    whole, theirs = (plan(scenario(seed=seed)) for _ in range(2))  # each process makes the plan for itself
    parts = [share(theirs, worker, workers) for worker in range(workers)]
    assert sorted((one for part in parts for one in part), key=lambda one: one.index) == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_mix_is_kept() -> None:
    found = Counter(one.operation for one in plan(scenario(duration_seconds=300)))
    assert found["chat"] / found["embed"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_changed_rate_is_the_mean_rate(process: Process) -> None:
    found = changed(scenario(arrivals=process.model_dump()), 7.5, 12, 9)
    assert mean_rate(found) == pytest.approx(7.5)
    assert (found.duration_seconds, found.seed) == (12, 9)


def test_a_closed_scenario_has_no_rate() -> None:
    closed = scenario(arrivals={"kind": "closed", "users": 2})
    with pytest.raises(ScenarioError, match="has users, no rate"):
        changed(closed, 3, None)
    assert changed(closed, None, 5).duration_seconds == 5


def test_too_many_arrivals_are_told() -> None:
    with pytest.raises(ScenarioError, match="6000000 arrivals are more than a run can plan"):
        plan(scenario(arrivals={"kind": "poisson", "rate": 100_000}))


# Traces


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"at_seconds": 2, "operation": "embed"}\n\n{"at_seconds": 0.5, "operation": "chat", "max_tokens": 7}\n'
    )
    return path


def replay(path: Path, speed: float = 1.0, **changes: object) -> Scenario:
    return scenario(arrivals={"kind": "replay", "path": path, "speed": speed}, **changes)


def test_a_trace_is_replayed_in_order(trace: Path) -> None:
    first, second = plan(replay(trace))
    assert (first.at_seconds, first.operation, first.part.max_tokens) == (0.5, "chat", (7, 7))
    assert (second.at_seconds, second.operation) == (2, "embed")
    assert [one.at_seconds for one in plan(replay(trace, speed=2))] == [0.25, 1]
    assert len(plan(replay(trace, duration_seconds=1))) == 1
    assert mean_rate(replay(trace, speed=2)) == 2


def test_a_csv_trace_reads_the_same(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("at_seconds,operation,max_tokens\n2,embed,\n0.5,chat,7\n")
    assert plan(replay(path)) == plan(replay(trace))


def test_an_arrival_without_operation_is_drawn_from_the_mix(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("at_seconds\n" + "\n".join(str(n / 100) for n in range(1000)))
    assert Counter(one.operation for one in plan(replay(path)))["chat"] == pytest.approx(750, rel=0.1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"at_seconds": 1}\nnonsense', "line 2: is not a JSON object"),
        ('{"operation": "chat"}', "line 1: at_seconds is missing"),
        ('{"at_seconds": "soon"}', "line 1: at_seconds is 'soon'"),
        ('{"at_seconds": -1}', "line 1: at_seconds is -1, out of range"),
        ('{"at_seconds": 1, "colour": 2}', "line 1: colour is no column"),
        ('{"at_seconds": 1, "operation": "image"}', "operation image is not in the scenario's mix"),
        ("", "holds no arrivals"),
    ],
)
def test_a_bad_trace_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=told):
        plan(replay(path))


def test_a_missing_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.jsonl")
