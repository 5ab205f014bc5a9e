"""Compiled tools are kept outside of the checkout, by content: built once, checked at each use, built anew if damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
PROGRAM = 'package main\n\nfunc main() { println("tiny") }\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one small tool."""
    folder = tmp_path / "checkout"
    tool = folder / "deploy" / "tools" / "tiny"
    tool.mkdir(parents=True)
    (tool / "go.mod").write_text("module example.com/tiny\n\ngo 1.24\n\ntool example.com/tiny\n")
    (tool / "main.go").write_text(PROGRAM)
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "go-tools.sh", folder / "scripts")
    return folder


def command(checkout: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"GENMESH_CACHE": str(cache)}
    call = [checkout / "scripts" / "go-tools.sh", checkout / "state", "tiny"]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(checkout: Path, cache: Path) -> str:
    with command(checkout, cache) as running:
        output = running.communicate()[0]
    assert running.returncode == 0, output
    program = checkout / "state" / "tools" / "tiny" / "bin" / "tiny"
    assert subprocess.run([program], check=True, capture_output=True, text=True).stderr == "tiny\n"
    return output


def test_a_tool_is_built_once_for_all_checkouts(checkout: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "(minutes, once)" in told(checkout, cache)
    assert told(checkout, cache) == ""
    other = shutil.copytree(checkout, tmp_path / "other", ignore=shutil.ignore_patterns("state"))
    assert told(other, cache) == ""
    (checkout / "deploy" / "tools" / "tiny" / "main.go").write_text(PROGRAM + "\n// changed\n")
    assert "(minutes, once)" in told(checkout, cache)


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "unlisted"])
def test_a_damaged_tool_is_built_anew(checkout: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    told(checkout, cache)
    program = (checkout / "state" / "tools" / "tiny" / "bin" / "tiny").resolve()
    content = program.read_bytes()
    if damage == "truncated":
        program.write_bytes(content[:1000])
    elif damage == "changed":
        program.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif damage == "gone":
        program.unlink()
    else:  # a build that was killed before its list was written
        program.parents[1].with_name(program.parents[1].name + ".sha256").unlink()
    assert "are not what was built" in told(checkout, cache)
    assert program.read_bytes() == content


def test_two_runs_at_once_build_it_once(checkout: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkout, tmp_path / "other")
    runs = [command(folder, tmp_path / "cache") for folder in (checkout, other)]
    outputs = []
    for run in runs:
        with run:
            outputs.append(run.communicate()[0])
        assert run.returncode == 0, outputs
    assert sorted(bool(output) for output in outputs) == [False, True]
