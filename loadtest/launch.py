"""Starts Locust with the locustfile, and workers beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.local.ports import free_port
from loadtest import scenarios, slo
from loadtest.measures import CALLS
from loadtest.scenarios import FOLDER

LOCUST = [sys.executable, "-m", "locust", "-f", str(FOLDER / "locustfile.py"), "--loglevel", "WARNING"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a scenario, and where its reports go."""

    scenario: str
    host: str  # host:port of the gateway
    key: str
    data: str  # the name of the data that are laid out for it
    out: Path
    scenarios_file: Path = scenarios.SCENARIOS
    slo_file: Path = slo.OBJECTIVES
    rate: float | None = None
    duration: float | None = None
    seed: int | None = None
    workers: int = 0
    remote_workers: int = 0
    port: int = 0  # where remote workers find the master; any where 0
    web: int | None = None  # port of Locust's page
    calls: bool = False  # also write each call to calls.jsonl

    def start(self, output: IO[str] | None = None) -> int:
        """Run it to its end; Locust's exit code, or 2 where it measured nothing. ``output``: the terminal where None."""
        self.out.mkdir(parents=True, exist_ok=True)
        summary = self.out / "summary.json"
        summary.unlink(missing_ok=True)
        (self.out / CALLS).unlink(missing_ok=True)
        port = self.port or free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
        environment = inherited | {"GENMESH_API_KEY": self.key, "PYTHONPATH": str(FOLDER.parent)}

        def begin(arguments: list[str]) -> subprocess.Popen[bytes]:
            command = [*LOCUST, *self._common(), *arguments]
            return subprocess.Popen(command, env=environment, cwd=self.out, stdout=output, stderr=output)

        processes = [begin(self._main(port))]
        try:
            processes += [begin(["--worker", "--master-port", str(port)]) for _ in range(self.workers)]
            code = processes[0].wait()
        finally:
            for process in processes:
                _end(process)
        return code if summary.exists() and code in (0, 1) else 2

    def _common(self) -> list[str]:
        found = ["--host", self.host, "--scenario", self.scenario, "--load-data", self.data, "--out", str(self.out)]
        found += ["--scenarios-file", str(self.scenarios_file.resolve()), "--slo-file", str(self.slo_file.resolve())]
        for option in ("rate", "duration", "seed"):
            if getattr(self, option) is not None:
                found += [f"--{option}", str(getattr(self, option))]
        return [*found, "--calls"] if self.calls else found

    def _main(self, port: int) -> list[str]:
        found = ["--csv", "locust", "--csv-full-history", "--html", "locust.html", "--only-summary"]
        found += ["--autostart", "--web-port", str(self.web)] if self.web else ["--headless"]
        if workers := self.workers + self.remote_workers:
            found += ["--master", "--expect-workers", str(workers), "--master-bind-port", str(port)]
            found += ["--expect-workers-max-wait", "120"]
        if self.workers and not self.remote_workers:
            found += ["--master-bind-host", "127.0.0.1"]
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to quit; end one that does not."""
    for stop in (process.terminate, process.kill):
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            stop()
    process.wait()
