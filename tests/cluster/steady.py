"""Load from outside of the cluster, by Locust, for as long as something is done to the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import NAMESPACE, ROOT, Cluster, eventually
from deploy.cluster.nodes import WORKERS
from loadtest.arrivals import changed, mean_rate
from loadtest.scenarios import pick

SCENARIOS = Path(__file__).parent / "scenarios.yaml"
# Nothing is judged by it: tests look at each call.
OBJECTIVES = "models: {error_rate: 0.99}\n"
# In the logs of the services (JSON) and of Triton.
WARNING = re.compile(r'"level": "(WARNING|ERROR)"| F [EW]\d{4} |signal \(')


@dataclass
class Load:
    """The calls so far; filled when the load is over, or by `read`."""

    file: Path
    calls: list[dict[str, Any]] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)  # containers that did, as pod.container.count

    def read(self) -> list[dict[str, Any]]:
        self.calls = [json.loads(line) for line in self.file.read_text().splitlines() if line.endswith("}")]
        return self.calls

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["error"]]

    def causes(self) -> Counter[tuple[str, str]]:
        """How many calls of which operation failed with which status."""
        return Counter((call["operation"], call["error"]) for call in self.failed)


@contextlib.contextmanager
def logs_kept(cluster: Cluster, folder: Path) -> Iterator[None]:
    """What pods print meanwhile is kept in the folder, also of pods that end: kubelets delete it with the pod."""
    folder.mkdir(exist_ok=True)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(FileNotFoundError):  # a pod's folder goes while it is listed
                for log in cluster.state.glob(f"nodes/*/pods-log/{NAMESPACE}_*/*/*.log"):
                    with contextlib.suppress(FileNotFoundError, FileExistsError):
                        pod = log.parent.parent.name.split("_")[1]
                        os.link(log, folder / f"{pod}.{log.parent.name}.{log.name}")

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tell(load: Load, logs: Path, most: int = 40) -> None:
    """Print when which calls failed, and what pods warned of at that time: a test that fails shows it."""
    moments = [datetime.fromtimestamp(call["at"], UTC).isoformat() for call in load.failed]
    print(
        *(f"{at} {call['operation']} {call['error']}" for at, call in zip(moments[:most], load.failed, strict=False)),
        sep="\n",
    )
    begin, end = (
        datetime.fromtimestamp(at, UTC).isoformat() for at in (load.failed[0]["at"] - 30, load.failed[-1]["at"] + 10)
    )
    lines = (f"{line} {file.name}" for file in logs.iterdir() for line in file.read_text(errors="replace").splitlines())
    warned = sorted(line for line in lines if begin <= line[:26] <= end and WARNING.search(line))
    # An exception's own words come last.
    print(*(line if len(line) < 500 else f"{line[:250]} ... {line[-250:]}" for line in warned[:most]), sep="\n")


def all_ended(load: Load, rate: float, patience: float) -> None:
    """Wait for the end of all calls that were due: one that hangs, or a Locust that died, would go unseen."""
    first = min(call["at"] for call in load.read())
    due = int((time.time() - first) * rate)
    before = first + (due - 0.5) / rate  # calls are due at constant intervals; between the last of them and the next
    eventually(
        f"the end of {due} calls", patience + 5, lambda: sum(call["at"] < before for call in load.read()) >= due
    )  # fmt: skip


@contextlib.contextmanager
def steady(
    cluster: Cluster,
    folder: Path,
    *,
    rate: float | None = None,
    scenario: str = "steady",
    after: float = 5.0,
    node: str = WORKERS[0],
) -> Iterator[Load]:
    """Load for the time of the ``with``, and ``after`` seconds more; by way of a node's port.

    It goes on until all that was due by then has ended, where calls are due by the clock.
    """
    asked = changed(pick(scenario, SCENARIOS), rate, None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slo.yaml").write_text(OBJECTIVES)
    command = [
        *cluster.outside(), sys.executable, "-m", "loadtest.load", scenario, "--scenarios", str(SCENARIOS),
        "--slo", str(folder / "slo.yaml"), "--out", str(folder), "--calls", "--target", cluster.target(node),
        "--api-key", cluster.key(), *(["--rate", str(rate)] if rate else []),
    ]  # fmt: skip
    load = Load(folder / "calls.jsonl")
    load.file.unlink(missing_ok=True)
    with (folder / "locust.log").open("w") as log, logs_kept(cluster, folder / "logs"):
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually("the load", 60, lambda: load.file.exists() and len(load.read()) >= 5)
            yield load
            time.sleep(after)
            if asked.is_open:
                all_ended(load, mean_rate(asked), asked.longest_deadline)
            load.read()
            assert process.poll() is None, (folder / "locust.log").read_text()[-2000:]
        finally:
            # Locust is a child of it, and must not go on.
            for stop in (signal.SIGINT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, stop)
                    process.wait(15)
    load.restarted = sorted(log.stem for log in (folder / "logs").iterdir() if not log.stem.endswith(".0"))
    assert load.calls, (folder / "locust.log").read_text()
    if load.failed:
        tell(load, folder / "logs")
