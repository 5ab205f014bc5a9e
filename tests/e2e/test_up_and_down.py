"""`make up` and its siblings on a state folder and ports of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.cluster import alive
from deploy.local.ports import Ports
from tests.conftest import MODELS, ROOT, TRITON_PYTHON
from tests.processes import command_lines
from tests.waiting import until


def offset() -> int:
    """An offset at which all ports are free, and the tests' own cluster is not."""
    for candidate in range(2000, 13_000, 137):  # below the ports that the system gives to connections
        if not Ports.fixed(candidate).taken():
            return candidate
    raise AssertionError("no ports are free")


def local(state: Path, *arguments: str, triton_python: Path = TRITON_PYTHON) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.local", *arguments]
    command += ["--state", str(state), "--triton-python", str(triton_python)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "models").symlink_to(MODELS)
    return tmp_path


def all_ready(state: Path) -> bool:
    status = local(state, "status")
    return status.returncode == 0 and status.stdout.count("ready") == 12


@pytest.mark.timeout(900)
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
        pid = int((state / "run" / "supervisord.pid").read_text())
        again = local(state, "up", "--port-offset", str(at))
        assert again.returncode == 0, again.stdout + again.stderr
        assert int((state / "run" / "supervisord.pid").read_text()) == pid  # nothing was started anew
        until(lambda: all_ready(state), 300)  # a busy machine may answer one of the twelve probes too late
        assert "==> rag <==" in local(state, "logs", "rag").stdout
    finally:
        down = local(state, "down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert not alive(pid)
    assert not Ports(json.loads((state / "run" / "ports.json").read_text())).taken()
    assert local(state, "status").stdout.count("stopped") == 12
    assert local(state, "down").returncode == 0


def test_a_part_that_does_not_start_takes_the_rest_down(state: Path) -> None:
    at = offset()
    failed = local(state, "up", "--port-offset", str(at), triton_python=Path("/bin/false"))
    assert failed.returncode == 1
    assert "triton does not start: it printed nothing" in failed.stderr
    assert not [words for words in command_lines().values() if any(str(state) in word for word in words)]
    assert not Ports.fixed(at).taken()
