"""What adapters learn from: the answer's tokens, with their end and nothing after it; ``run_training.py`` computes it."""

from __future__ import annotations

import json
import math
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


def test_preferred_replies_become_likelier(computed: dict[str, Any]) -> None:
    """Small letters are preferred to capitals. Margins are measured by sft's own losses, on pairs that no training saw, too;
    before training they are 0."""
    facts, others, held_out = computed["small"]["facts"], computed["small"]["others"], computed["small"]["held_out"]
    assert sum(margin > 0 for margin in others) >= 0.9 * len(others), others
    assert sum(others) / len(others) > 5
    assert (facts["method"], facts["beta"], facts["pairs"], facts["held_out_pairs"]) == ("dpo", 0.1, 36, 12)
    assert facts["held_out_accuracy"] == pytest.approx(sum(margin > 0 for margin in held_out) / 12, abs=0.1)
    expected = sum(math.log1p(math.exp(-facts["beta"] * margin)) for margin in held_out) / 12
    assert facts["held_out_loss"] == pytest.approx(expected, abs=0.03)  # training may be in bfloat16
    assert facts["held_out_loss"] < math.log(2) - 0.2
    # Nothing of the frozen copy that is the reference.
    assert computed["small"]["files"] == [
        "README.md",
        "adapter.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_reference_is_where_training_starts(computed: dict[str, Any]) -> None:
    """The first step has no margin yet, so its loss is log 2; of an adapter to go on with, too."""
    for one in ("small", "smaller"):
        assert computed[one]["losses"][0] == pytest.approx(math.log(2), abs=1e-3)
    assert computed["smaller"]["facts"]["rank"] == 4
