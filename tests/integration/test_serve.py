"""What becomes of Triton when a model's process dies, and when Triton gives one up that a busy machine did not run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from genmesh_models import control
from tritonclient.utils import InferenceServerException

from deploy.local.ports import free_ports
from tests.conftest import ROOT, TRITON_PYTHON
from tests.processes import command_lines
from tests.waiting import until

CONFIG = """
name: "NAME"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
# The first process that finds the file "slow" takes it away, and does not come to an end by itself.
MODEL = """
import os, time
from pathlib import Path

class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"])
        if (folder / "slow").exists():
            (folder / "slow").unlink()
            (folder / "pid.new").write_text(str(os.getpid()))
            (folder / "pid.new").rename(folder / "pid")
            time.sleep(600)

    def execute(self, requests):
        return []
"""


class Served:
    """A Triton with two small models, under serve.py."""

    def __init__(self, folder: Path, slow: str = "") -> None:
        self.folder, self.log = folder, folder / "log"
        for name in ("one", "two"):
            (folder / "models" / name / "1").mkdir(parents=True)
            (folder / "models" / name / "config.pbtxt").write_text(CONFIG.replace("NAME", name))
            (folder / "models" / name / "1" / "model.py").write_text(MODEL)
        if slow:
            self.slow(slow)
        found = list(map(str, free_ports(3)))
        self.url = f"127.0.0.1:{found[0]}"
        command = [str(TRITON_PYTHON), str(ROOT / "model_repository" / "serve.py"), "--models", str(folder / "models")]
        command += ["--cache", str(folder / "cache"), "--grpc-port", found[0], "--http-port", found[1]]
        self.command = [*command, "--metrics-port", found[2], "--exit-timeout-secs", "5"]
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        with triton.InferenceServerClient(self.url) as client:
            try:
                return bool(client.is_server_ready(client_timeout=5))
            except InferenceServerException:
                return False

    def stubs(self, model: str) -> list[int]:
        """The processes of a model."""
        place = str(self.folder / "models" / model)
        lines = command_lines().items()
        return [process for process, words in lines if words[0].endswith("stub") and words[1].startswith(place)]

    def slow(self, model: str) -> None:
        """Let the model's next process load for ever."""
        (self.folder / "models" / model / "slow").touch()

    def hold_up(self, model: str) -> None:
        """Stop a process that loads, as a machine without processor time does."""
        file = self.folder / "models" / model / "pid"
        until(file.exists)
        os.kill(int(file.read_text()), signal.SIGSTOP)


@contextmanager
def served(folder: Path, slow: str = "") -> Iterator[Served]:
    found = Served(folder, slow)
    try:
        yield found
    finally:
        found.process.terminate()
        found.process.wait()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        until(found.ready)
        yield found


def test_a_process_that_dies_ends_triton_with_an_error(running: Served) -> None:
    (stub,) = running.stubs("one")
    os.kill(stub, signal.SIGKILL)
    assert running.process.wait() == 1
    assert re.search("The process of the model (one|that was started last) ended", running.log.read_text())
    until(lambda: not running.stubs("one") + running.stubs("two"))
    with pytest.raises(InferenceServerException), triton.InferenceServerClient(running.url) as client:
        client.is_server_live(client_timeout=5)


def test_nothing_outlives_a_killed_wrapper(running: Served) -> None:
    assert running.stubs("one")
    running.process.kill()
    running.process.wait()
    until(lambda: not running.stubs("one") + running.stubs("two"))
    with pytest.raises(InferenceServerException), triton.InferenceServerClient(running.url) as client:
        client.is_server_live(client_timeout=5)


def test_the_next_start_ends_what_a_killed_triton_left_behind(running: Served) -> None:
    left = running.stubs("one") + running.stubs("two")
    (server,) = [process for process, words in command_lines().items() if words[0].endswith("tritonserver")
                 and str(running.folder / "models") in " ".join(words)]  # fmt: skip
    for process in (running.process.pid, server):  # as the kernel does where memory lacks
        os.kill(process, signal.SIGKILL)
    running.process.wait()
    running.start()
    until(running.ready)
    assert not set(left) & set(running.stubs("one") + running.stubs("two"))
    assert len(running.stubs("one")) == 1


def test_the_end_that_is_wanted_is_none(running: Served) -> None:
    running.process.terminate()
    running.process.wait()
    assert "ended; Triton" not in running.log.read_text()
    until(lambda: not running.stubs("one") + running.stubs("two"))


def test_a_process_that_is_given_up_while_triton_starts(tmp_path: Path) -> None:
    with served(tmp_path, slow="two") as found:
        found.hold_up("two")
        until(found.ready)
        assert "Triton gave up the process of the model two" in found.log.read_text()


def test_a_process_that_is_given_up_while_a_model_is_loaded_anew(running: Served) -> None:
    running.slow("one")
    loading = subprocess.Popen(
        [str(TRITON_PYTHON), "-c", f"from genmesh_models import control; control.load('{running.url}', 'one', [1])"]
    )
    running.hold_up("one")
    assert loading.wait() == 0
    assert "Triton gave up the process of the model one" in running.log.read_text()
    assert control.loaded(running.url, "one") == {1}
