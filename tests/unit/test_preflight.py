"""What the chart asks of a services' image before it changes anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import preflight

ROOT = Path(__file__).resolve().parents[2]


def test_settings_that_can_be_taken() -> None:
    """What the pods have besides (ports, addresses, secrets) is not asked for."""
    settings = {"rag": {"GENMESH_CANDIDATES": 8}, "embedding": {"GENMESH_CACHE_TTL_SECONDS": "60"}}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENMESH_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.preflight"], env=environment | {preflight.VARIABLE: json.dumps(settings)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "can be run" in done.stdout


def test_settings_that_cannot_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"rag": {"GENMESH_CANDIDATES": "many"}, "gateway": {"GENMESH_MAX_MESSAGE_BYTES": 1}}
    monkeypatch.setattr(os, "environ", {preflight.VARIABLE: json.dumps(settings)})
    with pytest.raises(SystemExit) as ended:
        preflight.main()
    told = str(ended.value)
    assert "rag: GENMESH_CANDIDATES: Input should be a valid integer" in told
    assert "gateway: GENMESH_MAX_MESSAGE_BYTES: Input should be greater than or equal to 1024" in told
    assert "PORT" not in told
