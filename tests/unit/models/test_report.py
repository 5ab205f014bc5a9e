"""The table of what bfloat16 gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from genmesh_models import catalogue, report
from genmesh_models.errors import BuildError


def entry(task: str) -> catalogue.Entry:
    return catalogue.entry_of("mine", {"task": task, "source": "x", "precision": "fp16"}, "cpu", "models.yaml")


def test_how_alike_outputs_are() -> None:
    vectors = np.eye(3, dtype=np.float32)
    tilted = np.array([[1, 0, 0], [0, 0.8, 0.6], [0, 0, 1]], np.float32)
    assert report.agreement("embed", vectors, tilted) == "least cosine 0.80000"
    assert (
        report.agreement("rerank", np.float32([0.1, 0.9]), np.float32([0.1, 0.85])) == "scores differ by at most 0.0500"
    )
    assert report.agreement("generate", np.array(["a", "b"]), np.array(["a", "c"])) == "1 of 2 greedy answers the same"
    black = np.zeros((4, 4, 3), np.uint8)
    assert report.agreement("upscale", black, black + np.uint8(1)) == "PSNR 48.1 dB"


def test_a_row_has_the_ratio() -> None:
    figures = {"f32": {"speed": 200.0, "speed_unit": "texts/s"}, "bf16": {"speed": 500.0, "speed_unit": "texts/s"}}
    row = report.inference_row(entry("embed"), figures, "alike")
    assert row == "| mine | fp16 | 200 texts/s | 500 | 2.50 | alike |"


def test_the_table_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    document = tmp_path / "models.md"
    document.write_text(f"before\n{report.INFERENCE_BEGIN}\nold\n{report.INFERENCE_END}\nafter\n")
    report.write_inference(document, ["| a |", "| b |"])
    text = document.read_text()
    assert text.startswith(f"before\n{report.INFERENCE_BEGIN}\nMeasured on ")
    assert text.endswith(f"| a |\n| b |\n{report.INFERENCE_END}\nafter\n")
    assert "old" not in text
    document.write_text("no marks")
    with pytest.raises(BuildError, match="has no place for the table"):
        report.write_inference(document, [])
