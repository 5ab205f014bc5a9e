"""Packages of an environment are held against the checksums that they came with."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def package(venv: Path, name: str, content: bytes) -> Path:
    """A package of one file, as installers leave it; the file."""
    folder = venv / "lib" / "python3.11" / "site-packages"
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    file = folder / f"{name}.py"
    file.write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"{name}.py,sha256={digest},{len(content)}\n{info.name}/RECORD,,\n")
    return file


def named(venv: Path) -> list[str]:
    command = [sys.executable, ROOT / "scripts" / "damaged.py", venv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_package_is_named(tmp_path: Path, damage: str) -> None:
    package(tmp_path, "sound", b"x = 1\n")
    file = package(tmp_path, "mine", b"y = 2\n")
    assert named(tmp_path) == []
    if damage == "truncated":
        file.write_bytes(b"y =")
    elif damage == "changed":
        file.write_bytes(b"y = 3\n")
    else:
        file.unlink()
    assert named(tmp_path) == ["mine"]
