"""When a run is repeated: a timeout that expired while the processor was starved, once; nothing else ever."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.cluster.cluster import NotReady
from tests.smoke.repeat import Pressure, avg60, repeated, timed_out

LATE = NotReady("the nodes was not there after 240 s.")


def runs(*outcomes: BaseException | str) -> Callable[[], str]:
    """A run that ends with each of these in turn."""
    left = list(outcomes)

    def run() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


@pytest.mark.parametrize(
    ("failure", "expired"),
    [
        (LATE, True),
        (TimeoutError("processes [7] do not end"), True),
        (subprocess.TimeoutExpired(["kubectl"], 600), True),
        (RuntimeError("helm upgrade: Error: UPGRADE FAILED: context deadline exceeded"), True),
        (RuntimeError("helm: job genmesh-preflight failed: DeadlineExceeded"), True),
        (RuntimeError("kubectl wait: error: timed out waiting for the condition on pods/stray"), True),
        (RuntimeError('error: deployment "genmesh-triton" exceeded its progress deadline'), True),
        (RuntimeError("helm test: Error: 1 error occurred: pod genmesh-test failed"), False),
        (AssertionError("timed out"), False),
        (ValueError("timed out"), False),
    ],
)
def test_what_counts_as_a_timeout(failure: BaseException, expired: bool) -> None:
    assert timed_out(failure) == expired


def test_one_that_ends_is_run_once() -> None:
    said: list[str] = []
    assert repeated(runs("first", "second"), lambda: 99.0, said.append) == "first"
    assert [line.partition(":")[0] for line in said] == ["first run"]


def test_a_timeout_under_starvation_is_repeated_and_both_results_are_said() -> None:
    said: list[str] = []
    assert repeated(runs(LATE, "second"), lambda: 83.0, said.append) == "second"
    assert [line.partition(":")[0] for line in said] == ["first run", "second run"]
    assert "CPU pressure 83 %: NotReady: the nodes" in said[0]


def test_a_second_timeout_fails() -> None:
    said: list[str] = []
    with pytest.raises(NotReady):
        repeated(runs(LATE, LATE, "third"), lambda: 83.0, said.append)
    assert [line.partition(":")[0] for line in said] == ["first run", "second run"]


@pytest.mark.parametrize(
    ("failure", "percent"),
    [(LATE, 60.0), (LATE, None), (AssertionError("wrong"), 99.0), (RuntimeError("wrong"), 99.0)],
    ids=["a quiet machine", "a kernel without pressure", "an assertion", "a command that failed"],
)
def test_anything_else_fails_at_once(failure: BaseException, percent: float | None) -> None:
    said: list[str] = []
    with pytest.raises(type(failure)):
        repeated(runs(failure, "second"), lambda: percent, said.append)
    assert len(said) == 1


def test_the_kernels_own_words(tmp_path: Path) -> None:
    file = tmp_path / "cpu"
    assert avg60(file) is None
    file.write_text(
        "some avg10=4.22 avg60=72.85 avg300=4.58 total=25920722\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    assert avg60(file) == 72.85
    file.write_text("")
    assert avg60(file) is None


def test_pressure_is_the_highest_of_its_samples() -> None:
    percents = iter([10.0, 70.0])
    pressure = Pressure(lambda: next(percents, 20.0))
    assert pressure.now() == 10
    assert pressure.now() == 70
    assert pressure.now() == 70
    assert Pressure(lambda: None).now() is None
    with Pressure(lambda: 5.0) as sampled:
        pass
    assert sampled.highest() == 5
