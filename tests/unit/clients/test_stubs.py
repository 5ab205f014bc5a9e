"""The client's package is not built without its stubs."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copyfile(ROOT / "clients" / "python" / "stubs.py", folder / "stubs.py")
    return subprocess.run([sys.executable, folder / "stubs.py"], capture_output=True, text=True, check=False)


def test_without_protos_and_without_stubs_there_is_no_package(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode == 1
    assert "no stubs" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_sdist_has_the_stubs_themselves(tmp_path: Path) -> None:
    made = tmp_path / "src" / "genmesh" / "v1" / "__init__.py"
    made.parent.mkdir(parents=True)
    made.touch()
    assert make(tmp_path).returncode == 0
