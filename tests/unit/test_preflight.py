"""What the chart asks of a services' image before it changes anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def preflight(settings: dict[str, dict[str, object]]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENMESH_")}
    return subprocess.run(
        [sys.executable, "-m", "services.preflight"], env=environment | {"PREFLIGHT_SETTINGS": json.dumps(settings)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_settings_that_can_be_taken() -> None:
    """What the pods have besides (ports, addresses, secrets) is not asked for."""
    done = preflight({"rag": {"GENMESH_CANDIDATES": 8}, "embedding": {"GENMESH_CACHE_TTL_SECONDS": "60"}})
    assert (done.returncode, done.stderr) == (0, "")
    assert "can be run" in done.stdout


def test_settings_that_cannot_are_all_named() -> None:
    done = preflight({"rag": {"GENMESH_CANDIDATES": "many"}, "gateway": {"GENMESH_MAX_MESSAGE_BYTES": 1}})
    assert done.returncode == 1
    assert "rag: GENMESH_CANDIDATES: Input should be a valid integer" in done.stderr
    assert "gateway: GENMESH_MAX_MESSAGE_BYTES: Input should be greater than or equal to 1024" in done.stderr
    assert "PORT" not in done.stderr
