"""The gate's table: stages with their durations, sums of tests, and the names of those that failed, last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PASSED = "....\n1137 passed, 2 skipped in 36.10s"
FAILED = """F.
=========================== short test summary info ============================
FAILED tests/integration/test_a.py::test_one[a b-c] - AssertionError: assert 1 == 2
ERROR tests/e2e/test_b.py::test_two - RuntimeError: no
1 failed, 1 passed, 1 error in 3.20s"""


def stage(folder: Path, name: str, script: str) -> int:
    environment = os.environ | {"GENMESH_STAGES": str(folder)}
    command = [ROOT / "scripts" / "stage.sh", name, "sh", "-c", script]
    return subprocess.run(command, env=environment, check=False, capture_output=True).returncode


def test_the_table_of_stages_that_passed_and_failed(tmp_path: Path) -> None:
    assert stage(tmp_path, "setup", "true") == 0
    assert stage(tmp_path, "unit", f"echo '{PASSED}'") == 0
    assert stage(tmp_path, "system", f"echo '{FAILED}'; exit 1") == 1
    assert stage(tmp_path, "images", "echo no room >&2; exit 3") == 3
    assert stage(tmp_path, "setup", "true") == 0
    command = [sys.executable, ROOT / "scripts" / "stages.py", tmp_path]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split() for line in lines[: lines.index("")]]
    assert [(row[0], row[5]) for row in rows] == [
        ("setup", "ok"),
        ("unit", "ok"),
        ("system", "FAILED"),
        ("images", "FAILED"),
    ]
    assert lines[1].endswith("1137 passed, 2 skipped")
    assert lines[-6:] == [
        "1138 passed, 2 failed, 2 skipped",
        "",
        "Failed:",
        "tests/integration/test_a.py::test_one[a b-c]",
        "tests/e2e/test_b.py::test_two",
        "images: the stage itself",
    ]
    assert (tmp_path / "images.log").read_text() == "no room\n"


def test_without_a_folder_a_stage_is_its_command() -> None:
    command = [ROOT / "scripts" / "stage.sh", "any", "sh", "-c", "echo done; exit 5"]
    environment = {key: value for key, value in os.environ.items() if key != "GENMESH_STAGES"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "done\n")
