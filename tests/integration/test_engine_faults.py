"""What a fault in one request costs the others, and what one in the engine is told as; ``run_engine_faults.py`` injects them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MODELS, TRITON_PYTHON


def version(name: str) -> Path:
    folder = MODELS / name
    return folder / str(json.loads((folder / "model.json").read_text())["version"])


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """By fault, what each request was told."""
    script = Path(__file__).with_name("run_engine_faults.py")
    command = [str(TRITON_PYTHON), str(script), str(version("generator")), str(version("embedder"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("detokenizer", "ValueError: no text of this token"),
        ("sender", "OSError: the sender is broken"),
        ("look", "OSError: nobody knows"),
    ],
)
def test_a_request_that_fails_ends_alone(told: dict[str, Any], fault: str, words: str) -> None:
    before, failed, after = told[fault]
    assert failed["error"] == words
    for other in (before, after):
        assert (other["reason"], other["error"]) == ("length", "")
        assert other["text"]


def test_a_metric_that_cannot_be_told_ends_no_request(told: dict[str, Any]) -> None:
    assert [(one["reason"], one["error"]) for one in told["metric"]] == [("length", "")] * 3


def test_bytes_that_are_no_text_raise_nothing(told: dict[str, Any]) -> None:
    found = told["byte fallback"]
    assert found["refused"] > 100  # the library alone refuses them
    assert found["different"] == 0  # what it takes is the same text


def test_what_does_not_fit_waits_and_what_cannot_wait_is_told_so(told: dict[str, Any]) -> None:
    *served, left, refused, stopped = told["queue"]
    assert [one["reason"] for one in served] == ["length"] * 4
    assert left["reason"] == "cancelled"
    assert refused["error"] == "3 requests wait already"
    assert stopped["reason"] == "stop"


def test_what_copies_its_prompt_takes_fewer_steps(told: dict[str, Any]) -> None:
    found = told["copies"]
    assert found["lookup"] == found["plain"]
    assert (found["plain"]["tokens"], found["plain"]["reason"]) == (40, "length")
    assert found["steps"]["lookup"] < 20 < 39 <= found["steps"]["plain"]
    stopped, left = found["ended"]
    assert (stopped["reason"], stopped["text"].count("black"), stopped["text"].count("brown")) == ("stop", 1, 0)
    assert left["reason"] == "cancelled"


def test_a_step_that_fails_costs_its_batch_and_no_more(told: dict[str, Any]) -> None:
    assert [one["error"] for one in told["one step"]] == ["engine step: the step failed"]
    assert [one["reason"] for one in told["after it"]] == ["length"]


def test_an_engine_whose_steps_fail_ends_and_says_why(told: dict[str, Any]) -> None:
    why = "the thread engine ended: RuntimeError: the step failed"
    step = "engine step: the step failed"
    assert [one["error"] for one in told["all steps"]] == [step, step, f"the engine stopped: {why}"]
    assert told["ended"] == [why]


def test_an_encoder_has_few_shapes_and_none_longer_than_its_context(told: dict[str, Any]) -> None:
    """Each is compiled and kept."""
    context = told["rows"]["context"]
    assert told["rows"]["widths"] == [*range(16, context, 16), context]


def test_an_encoder_computes_what_is_wanted_and_nothing_stays_of_what_was_broken_off(told: dict[str, Any]) -> None:
    found = told["rows"]
    assert found["unwanted"] == 0
    assert found["wanted"] > 0.99
    assert found["raised"]
    assert found["looks"] == 41
    assert found["after"] > 0.99
