"""Threads that a model cannot do without."""

from __future__ import annotations

import queue
import subprocess
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, SHARED := str(ROOT / "model_repository" / "shared"))
from inbox import supervised, work_off


def test_what_an_item_raises_ends_that_item_alone(capsys: pytest.CaptureFixture[str]) -> None:
    inbox: queue.Queue[int | None] = queue.Queue()
    done = []

    def work(item: int) -> None:
        if item == 2:
            raise ValueError("not this one")
        done.append(item)

    for item in (1, 2, 3, None):
        inbox.put(item)
    work_off(inbox, work)
    assert done == [1, 3]
    assert "ValueError: not this one" in capsys.readouterr().err


def test_a_thread_that_ends_by_an_exception_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []

    def loop() -> None:
        raise RuntimeError("no more")

    supervised("engine", loop, told.append).join(60)
    assert told == ["the thread engine ended: RuntimeError: no more"]
    supervised("engine", lambda: None, told.append).join(60)
    assert len(told) == 1


def test_it_ends_the_process_with_an_error() -> None:
    script = (
        f"import sys, time; sys.path.insert(0, {SHARED!r}); from inbox import supervised\n"
        "supervised('engine', lambda: 1 / 0)\ntime.sleep(600)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the thread engine ended: ZeroDivisionError" in done.stderr
