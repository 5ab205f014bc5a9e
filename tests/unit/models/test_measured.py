"""Metrics of models: one that Triton does not take ends nothing, and no counter falls."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT

ARGS = {"model_name": "generator", "model_version": "1"}


class Metric:
    """As Triton's: it refuses to count down."""

    refuses = False

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self._check(self.refuses)
        self.value = value

    def increment(self, by: float) -> None:
        self._check(self.refuses or by < 0)
        self.value += by

    @staticmethod
    def _check(wrong: bool) -> None:
        if wrong:
            raise RuntimeError("Failed to increment metric")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    def family(name: str, description: str, kind: str) -> Any:
        return SimpleNamespace(Metric=lambda labels: Metric())

    family.COUNTER, family.GAUGE = "counter", "gauge"  # type: ignore[attr-defined]
    stand_in = ModuleType("triton_python_backend_utils")
    stand_in.MetricFamily = family  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    monkeypatch.syspath_prepend(str(ROOT / "model_repository" / "shared"))
    import measured

    monkeypatch.setattr(measured.traceback, "print_exc", lambda: None)
    yield measured.Measured("generator", ARGS)
    sys.modules.pop("measured", None)


def value(measured: Any, name: str) -> float:
    return float(measured._metrics[name].value)


def test_a_counter_never_falls(measured: Any) -> None:
    for total in (3, 5, 2, 5, 6):
        measured.reached("cancelled_requests_total", total)
    assert value(measured, "cancelled_requests_total") == 6


def test_what_triton_does_not_take_is_told_again(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metric, "refuses", True)
    measured.set("running_requests", 2)
    measured.reached("cancelled_requests_total", 4)
    assert not measured.increment("saved_tokens_total", 1)
    monkeypatch.setattr(Metric, "refuses", False)
    measured.set("running_requests", 2)
    measured.reached("cancelled_requests_total", 4)
    assert value(measured, "running_requests") == 2
    assert value(measured, "cancelled_requests_total") == 4
