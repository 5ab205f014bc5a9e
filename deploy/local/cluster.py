"""Start, watch and stop a cluster on one machine, under supervisord."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from supervisor.xmlrpc import SupervisorTransport

from deploy.local.ports import SERVICES, Ports
from deploy.local.processes import HOST, ROOT, Layout, programs, remembered, write_files

NEEDED = ("redis-server", "prometheus", "prometheus-redis-exporter")  # each of the Debian package of its name
LEAST_MEMORY_MIB = 3000
START_TIMEOUT_SECONDS = 300


class ClusterError(Exception):
    """The cluster cannot run; the text is one sentence for the person at the terminal."""


def available_memory_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return LEAST_MEMORY_MIB


class Transport(SupervisorTransport):  # type: ignore[misc]
    """Closes its connection after each request, which supervisor's own leaves open."""

    def request(self, *args: Any, **more: Any) -> Any:
        try:
            return super().request(*args, **more)
        finally:
            self.close()


class Cluster:
    """One cluster; all that it writes lies below ``layout.state``."""

    def __init__(self, layout: Layout, ports: Ports) -> None:
        self.layout, self.ports = layout, ports
        self.socket = layout.run / "supervisor.sock"
        self.target = f"{HOST}:{ports['gateway']}"

    # The process manager

    @property
    def manager(self) -> Any:
        transport = Transport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def running(self) -> bool:
        try:
            return bool(self.manager.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def states(self) -> dict[str, dict[str, Any]]:
        """For each program what the process manager says of it."""
        return {p["name"]: p for p in self.manager.getAllProcessInfo()}

    # Keys

    def development_key(self) -> str:
        """The API key of tenant "dev", made once; its hash stands in the gateway's file."""
        key = remembered(self.layout.run / "development-key", "gm_" + secrets.token_urlsafe(24))
        self.add_key("dev", key)
        return key

    def add_key(self, tenant: str, key: str) -> None:
        """Let a key in for a tenant."""
        path = self.layout.keys_file
        entries = (yaml.safe_load(path.read_text()) or []) if path.exists() else []
        entry = {"tenant": tenant, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        if entry not in entries:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.touch(0o600)
            temporary.write_text(yaml.safe_dump([*entries, entry]))
            temporary.replace(path)

    # Up

    def check(self) -> None:
        """Raise unless the machine can carry the cluster."""
        for program in NEEDED:
            if shutil.which(program) is None:
                raise ClusterError(f"The program {program} is missing; install the Debian package {program}.")
        if not (self.layout.models / "generator" / "model.json").exists():
            raise ClusterError(f"There are no models in {self.layout.models}; run `make models`.")
        if (memory := available_memory_mib()) < LEAST_MEMORY_MIB:
            raise ClusterError(
                f"The cluster needs {LEAST_MEMORY_MIB} MiB of free memory; this machine has {memory} MiB."
            )
        if taken := self.ports.taken():
            name, port = next(iter(taken.items()))
            raise ClusterError(
                f"Port {port}, which {name} needs, is taken by another program; stop it, or move all ports with PORT_OFFSET=100."
            )

    def start(self, say: Callable[[str], None]) -> None:
        """Start what does not run and wait until the gateway serves; on failure nothing stays behind."""
        self.development_key()
        changed = write_files(self.layout, self.ports)
        if self.running() and (changed or self._stale()):
            say("the configuration changed; starting anew")
            self.stop()
        if not self.running():
            self._clear_stale_manager()
            self.check()
            subprocess.run(
                [str(Path(sys.executable).parent / "supervisord"), "-c", str(self.layout.run / "supervisord.conf")],
                check=True, cwd=ROOT, env=self._environment(),
            )  # fmt: skip
            self._stamp_file.write_text(self._stamp())
        else:
            for name, state in self.states().items():
                if state["statename"] in ("STOPPED", "EXITED", "FATAL"):
                    self.manager.startProcess(name, False)
        try:
            self._wait(say)
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def _environment() -> dict[str, str]:
        """The caller's environment without settings that were meant for something else."""
        return {k: v for k, v in os.environ.items() if not k.startswith("GENMESH_")}

    @property
    def _stamp_file(self) -> Path:
        return self.layout.run / "started-from"

    def _stamp(self) -> str:
        """What the running processes were started from. Models are no part: a new version takes over by itself."""
        total = hashlib.sha256()
        files = [*(ROOT / "services").rglob("*.py"), *(ROOT / "clients" / "python" / "src").rglob("*.py"),
                 ROOT / "model_repository" / "serve.py", ROOT / "deploy" / "images" / "vector_store.py"]  # fmt: skip
        for path in sorted(files):
            total.update(path.read_bytes())
        return total.hexdigest()

    def _stale(self) -> bool:
        return not self._stamp_file.exists() or self._stamp_file.read_text() != self._stamp()

    def _clear_stale_manager(self) -> None:
        """Remove the socket of a process manager that was killed."""
        if self.socket.exists():
            self.socket.unlink()

    def _wait(self, say: Callable[[str], None]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        waiting: dict[str, Callable[[], bool]] = {"redis": self._redis_ready, "milvus": lambda: self._listens("milvus")}
        waiting |= {"triton": self._triton_ready}
        waiting |= {name: lambda name=name: self._serving(name) for name in SERVICES if name != "gateway"}  # type: ignore[misc]
        waiting |= {"prometheus": lambda: self._listens("prometheus"), "gateway": lambda: self._serving("gateway")}
        begun = time.monotonic()
        started: dict[str, int] = {}
        while waiting:
            for name, ready in list(waiting.items()):
                if ready():
                    del waiting[name]
                    say(f"{name} is ready ({time.monotonic() - begun:.0f} s)")
            for name, state in self.states().items():
                # The process manager would start a part again and again; one that ended once does not start.
                ended = state["statename"] in ("BACKOFF", "EXITED", "FATAL")
                if ended or (state["start"] and started.setdefault(name, state["start"]) != state["start"]):
                    raise ClusterError(f"{name} does not start: {self._cause(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{', '.join(waiting)} did not become ready in {START_TIMEOUT_SECONDS} s; see {self.layout.logs}."
                )
            time.sleep(0.25)

    def _cause(self, name: str) -> str:
        """The last line of a part's log that tells of an error; else the last line."""
        lines = [
            line for line in (self.layout.logs / f"{name}.log").read_text(errors="replace").splitlines() if line.strip()
        ]
        telling = [line for line in lines if re.search(r"error|failed|cannot|unable", line, re.IGNORECASE)]
        return (telling or lines or ["it printed nothing"])[-1].strip()

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex((HOST, self.ports[name])) == 0

    def _redis_ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.ports["redis"]), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _triton_ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{self.ports['triton_http']}/v2/health/ready", timeout=1
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _serving(self, name: str) -> bool:
        with grpc.insecure_channel(f"{HOST}:{self.ports[name]}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    # Down

    def stop(self) -> None:
        """Stop all processes and the process manager, in that order, and wait for them."""
        self._stop()
        for pid in left_behind(self.layout.models):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while alive(pid):
                time.sleep(0.01)

    def _stop(self) -> None:
        pid_file = self.layout.run / "supervisord.pid"
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        if self.running():
            try:
                self.manager.shutdown()
            except (OSError, xmlrpc.client.Error):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not alive(pid):
                return
            time.sleep(0.1)
        raise ClusterError(f"The process manager (pid {pid}) does not stop.")

    # Status

    def status(self) -> dict[str, str]:
        """For each part how it is, in a few words."""
        if not self.running():
            return {program.name: "stopped" for program in programs(self.layout, self.ports)}
        found = {}
        for name, state in self.states().items():
            text = state["statename"].lower()
            if text == "running":
                ready = {"redis": self._redis_ready, "triton": self._triton_ready}.get(name)
                if ready is None:
                    ready = (lambda n=name: self._serving(n)) if name in SERVICES else (lambda n=name: self._listens(n))
                text = "ready" if ready() else "running, not ready"
            elif text in ("fatal", "exited", "backoff"):
                text = f"{text}: {self._cause(name)}"
            found[name] = text
        return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie that nobody reaps is gone too
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_behind(models: Path) -> list[int]:
    """Processes of models whose Triton ended while it loaded them: they never learn of it, and wait for ever."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            program, *arguments = file.read_text(errors="replace").split("\0")
            if program.endswith("/triton_python_backend_stub") and arguments[0].startswith(f"{models}/"):
                parent = (file.parent / "stat").read_text().rpartition(")")[2].split()[1]
                if Path(f"/proc/{parent}/comm").read_text().strip() != "tritonserver":
                    found.append(int(file.parent.name))
    return found


def saved_ports(layout: Layout) -> Ports | None:
    """The ports of the cluster that was started last."""
    try:
        saved: dict[str, int] = json.loads((layout.run / "ports.json").read_text())
        return Ports(Ports.fixed().by_name | saved)  # an older version knew fewer
    except (OSError, ValueError):
        return None
