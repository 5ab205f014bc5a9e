"""The client's package, built from a fresh copy of the repository, in environments that have nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, STATE

UV = str(STATE / "venv" / "tools" / "bin" / "uv")
IMPORT = """
import genmesh.aio
from genmesh import Client
from genmesh.v1 import rag_pb2, vector_search_pb2_grpc
with Client("localhost:1", api_key="gm_none") as client:
    assert client.rag.StreamAnswer and client.models.ListModels
assert rag_pb2.AnswerRequest(question="?").question == "?"
"""


def run(*command: str | Path, **more: str) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=os.environ | more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with sdist and wheel."""
    clone = tmp_path_factory.mktemp("clone")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "clients/python", "protos"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    assert not (clone / "clients" / "python" / "src" / "genmesh" / "v1").exists()
    run(UV, "build", "-q", "--python", sys.executable, clone / "clients" / "python", "--out-dir", clone / "dist")
    return clone / "dist"


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_is_imported_where_nothing_else_is(built: Path, tmp_path: Path, kind: str) -> None:
    (package,) = built.glob(kind)
    run(UV, "venv", "-q", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "pip", "install", "-q", "--python", python, package)
    run(python, "-I", "-c", IMPORT, PYTHONPATH="")
    assert "Answer a question" in run(tmp_path / "venv" / "bin" / "genmesh", "ask", "--help", COLUMNS="200")
