"""What adapters learn from: the answer's tokens, with their end and nothing after it; ``run_training.py`` computes it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TRITON_PYTHON


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    command = [str(TRITON_PYTHON), str(Path(__file__).with_name("run_training.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_batch_loses_what_its_chats_lose_alone(computed: dict[str, Any]) -> None:
    assert computed["batch"] == pytest.approx(computed["alone"], rel=1e-4)
    assert computed["tokens"] == 10 + 15 + 32 + 1  # a first token is foretold by nothing


def test_an_answer_ends_once(computed: dict[str, Any]) -> None:
    """ChatML goes on with a line feed after the end, which is not learned; where a template has no end, one is."""
    assert computed["learned"] == {"chatml": "a lazy dog</s>", "own": "a lazy dog</s>", "none": " a lazy dog\n</s>"}


def test_a_training_goes_on_from_an_adapter(computed: dict[str, Any]) -> None:
    first, second = computed["first"], computed["second"]
    assert first["losses"][-1] < first["losses"][0]
    assert second["losses"][0] < (first["losses"][0] + first["losses"][-1]) / 2
    for one in (first, second):
        assert one["facts"]["held_out_loss"] == pytest.approx(min(one["losses"]), abs=1e-4)
        assert (one["facts"]["held_out_chats"], one["facts"]["chats"], one["facts"]["rank"]) == (4, 12, 4)
    assert "which does not fit mine's" in computed["refused"] or "mine has no layer" in computed["refused"]
