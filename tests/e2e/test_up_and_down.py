"""`make up` and its siblings on a state folder and ports of their own: the golden path and the refusals."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.cluster import alive
from deploy.local.ports import Ports
from tests.conftest import MODELS, ROOT, TRITON_PYTHON


def offset() -> int:
    """An offset at which all ports are free, and the tests' own cluster is not."""
    for candidate in range(2000, 20_000, 137):
        if not Ports.fixed(candidate).taken():
            return candidate
    raise AssertionError("no ports are free")


def local(state: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    command = [
        sys.executable,
        "-m",
        "deploy.local",
        *arguments,
        "--state",
        str(state),
        "--triton-python",
        str(TRITON_PYTHON),
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "models").symlink_to(MODELS)
    return tmp_path


@pytest.mark.timeout(300)
def test_up_answers_and_draws_and_down_leaves_nothing(state: Path) -> None:
    at = offset()
    up = local(state, "up", "--port-offset", str(at))
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        assert "seven years" in up.stdout
        assert "[1] release-policy.md" in up.stdout
        assert "TTFT" in up.stderr
        assert "tokens/s" in up.stderr
        assert (state / "first-image.png").read_bytes().startswith(b"\x89PNG")
        key = re.search(r"gm_[\w-]+", up.stdout)
        assert key
        assert key.group() not in (state / "run" / "api-keys.yaml").read_text()
        begun = time.monotonic()
        again = local(state, "up", "--port-offset", str(at))
        assert again.returncode == 0, again.stdout + again.stderr
        assert time.monotonic() - begun < 60
        status = local(state, "status")
        assert status.returncode == 0
        assert status.stdout.count("ready") == 12
        assert "==> rag <==" in local(state, "logs", "rag").stdout
        pid = int((state / "run" / "supervisord.pid").read_text())
    finally:
        down = local(state, "down")
    assert down.returncode == 0
    assert not alive(pid)
    assert not Ports(json.loads((state / "run" / "ports.json").read_text())).taken()
    assert local(state, "status").stdout.count("stopped") == 12
    assert local(state, "down").returncode == 0


def test_a_taken_port_is_one_sentence_and_leaves_nothing(state: Path) -> None:
    at = offset()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", Ports.fixed(at)["milvus"]))
        squatter.listen()
        refused = local(state, "up", "--port-offset", str(at))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"Port {Ports.fixed(at)['milvus']}, which milvus needs, is taken" in refused.stderr
    assert not (state / "run" / "supervisord.pid").exists()
    assert not Ports.fixed(at).taken()


def test_a_missing_program_is_one_sentence(state: Path) -> None:
    refused = local(state, "up", "--port-offset", str(offset()), path="/nonexistent")
    assert refused.returncode == 1
    assert refused.stderr == "The program redis-server is missing; install the Debian package redis-server.\n"


def test_a_part_that_does_not_start_takes_the_rest_down(state: Path) -> None:
    at = offset()
    (state / "models").unlink()
    (state / "models").mkdir()
    for model in MODELS.iterdir():
        (state / "models" / model.name).symlink_to(model)
    (state / "models" / "reranker").unlink()
    (state / "models" / "reranker").mkdir()
    (state / "models" / "reranker" / "model.json").write_text("{")
    failed = local(state, "up", "--port-offset", str(at))
    assert failed.returncode == 1
    assert "does not start" in failed.stderr
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not [command for command in commands if bytes(state / "models") in command]
    assert not Ports.fixed(at).taken()
