"""Each starter's recipe runs from nothing for a minute or two, learns, and leaves a checkpoint that loads."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, TRITON_PYTHON
from tests.figures import Figure

STARTER = ROOT / "model_repository" / "starter"
MINUTES = "1.5"
# Start-up, the pictures or samples, and measuring come on top; a busy machine takes longer.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]


def train(name: str, out: Path, *options: str, minutes: str = MINUTES) -> str:
    """What a recipe prints."""
    command = [
        str(TRITON_PYTHON),
        str(STARTER / name / "train.py"),
        "--minutes",
        minutes,
        "--threads",
        "1",
        "--seed",
        "3",
    ]
    done = subprocess.run(
        [*command, "--out", str(out), *options], cwd=STARTER / name, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "model_index.json").exists() or list(out.glob("*.safetensors")), sorted(out.iterdir())
    return done.stdout


def figures(printed: str, pattern: str) -> list[float]:
    found = [float(value) for value in re.findall(pattern, printed)]
    assert len(found) >= 3, printed[-2000:]
    return found


def share_left(found: list[float]) -> float:
    """The mean of the last third over the first figure: below 1 if it fell."""
    last = found[-max(1, len(found) // 3) :]
    return sum(last) / len(last) / found[0]


def test_the_upscaler_learns(tmp_path: Path, figure: Figure) -> None:
    printed = train("upscaler", tmp_path)
    left = share_left(figures(printed, r"(?m)^content .* l1 ([\d.]+)"))
    ours, bicubic = map(float, re.findall(r"after training: PSNR ([\d.]+) dB \(bicubic ([\d.]+)\)", printed)[-1])
    figure(f"upscaler: loss left after {MINUTES} minutes", left)
    figure("upscaler: PSNR over bicubic", ours - bicubic, "dB")
    assert left < 0.9
    assert "discriminator" in printed
    assert ours > bicubic - 0.5


def test_the_diffuser_learns(tmp_path: Path, figure: Figure) -> None:
    printed = train("diffuser", tmp_path, "--pool", "400", minutes="3")
    left = share_left(figures(printed, r"(?m)^U-Net .* loss ([\d.]+)"))
    figure("diffuser: loss left after 3 minutes", left)
    assert left < 0.95
