"""Load from outside of the cluster, by Locust, for as long as something is done to the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import ROOT, Cluster, eventually
from deploy.cluster.nodes import WORKERS

SCENARIOS = Path(__file__).parent / "scenarios.yaml"
# Nothing is judged by it: tests look at each call.
OBJECTIVES = "models: {error_rate: 0.99}\n"


@dataclass
class Load:
    """The calls so far; filled when the load is over, or by `read`."""

    file: Path
    calls: list[dict[str, Any]] = field(default_factory=list)

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
def steady(
    cluster: Cluster,
    folder: Path,
    *,
    rate: float | None = None,
    scenario: str = "steady",
    after: float = 5.0,
    node: str = WORKERS[0],
) -> Iterator[Load]:
    """Load for the time of the ``with``, and ``after`` seconds more; by way of a node's port."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slo.yaml").write_text(OBJECTIVES)
    command = [
        *cluster.outside(), sys.executable, "-m", "loadtest.load", scenario, "--scenarios", str(SCENARIOS),
        "--slo", str(folder / "slo.yaml"), "--out", str(folder), "--calls", "--target", cluster.target(node),
        "--api-key", cluster.key(), *(["--rate", str(rate)] if rate else []),
    ]  # fmt: skip
    load = Load(folder / "calls.jsonl")
    load.file.unlink(missing_ok=True)
    with (folder / "locust.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually("the load", 60, lambda: load.file.exists() and len(load.read()) >= 5)
            yield load
            time.sleep(after)
            load.read()
        finally:
            # Locust is a child of it, and must not go on.
            for stop in (signal.SIGINT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, stop)
                    process.wait(15)
    assert load.calls, (folder / "locust.log").read_text()
