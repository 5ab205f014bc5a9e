"""The cluster as a whole: started, waited for, the chart installed, taken away."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from deploy.cluster import images
from deploy.cluster.credentials import Credentials
from deploy.cluster.kernel import UNSHARE, Ledger, make_switch, plug_in, run, within
from deploy.cluster.nodes import API, API_NAMES, CLIENT, NODES, PODS, SWITCH, WORKERS, Place, addons, configure, volumes

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "genmesh"
VALUES = [CHART / "values-cpu.yaml", Path(__file__).parent / "values.yaml"]
PARTS = {"switch": SWITCH, "client": CLIENT}
RELEASE, NAMESPACE = "genmesh", "genmesh"
# Kept when a cluster is taken away: nodes keep the images they have.
KEPT = ("containerd", "images.json")
# Seconds until a start that hangs is given up; a machine that is busy takes many times what a quiet one does.
PATIENCE = 240


T = TypeVar("T")


class NotReady(Exception):
    """Something did not come up in time; the message says what."""


def eventually(what: str, seconds: float, probe: Callable[[], T | None]) -> T:
    """The probe's first value that is true, asked for at most so long; its last failure is told otherwise."""
    until, last = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            if found := probe():
                return found
        except Exception as failure:
            last = str(failure)
        time.sleep(0.3)
    raise NotReady(f"{what} was not there after {seconds:.0f} s. {last}".strip())


class Cluster:
    """One cluster, whose state lies in ``state`` and whose programs in ``tools``."""

    def __init__(
        self,
        state: Path,
        tools: Path,
        *,
        nodes: Sequence[str] = tuple(NODES),
        metrics: bool = True,
        lost_after: int = 20,
    ) -> None:
        """``nodes``: those to start, the control plane among them.

        ``metrics``: run metrics-server, if it was built. ``lost_after``: seconds without a heartbeat, then a node
        counts as lost.
        """
        self.state = state.resolve()
        self.ledger = Ledger(self.state)
        self.tools = tools.resolve()
        self.nodes = list(nodes)
        self.metrics = metrics and (self.tools / "metrics-server" / "bin" / "metrics-server").exists()
        self.lost_after = lost_after
        self._lock: IO[str] | None = None  # held from the start until the stop, or this process's end

    @property
    def workers(self) -> list[str]:
        return [name for name in self.nodes if name in WORKERS]

    @property
    def kubeconfig(self) -> Path:
        return self.state / "keys" / "admin.kubeconfig"

    def place(self) -> Place:
        credentials = Credentials(self.state / "keys", NODES, API_NAMES)
        return Place(self.state, self.tools, credentials, self.lost_after, self.metrics)

    # --- up and down

    def start(self, say: Callable[[str], None]) -> None:
        """Start switch, client and nodes; wait until the nodes are ready, with their images.

        NotReady if another process has started it; this process keeps others off until it stops the cluster.
        """
        self._alone()
        self.ledger.release()
        place = self.place()
        place.credentials.kubeconfig("admin", API)
        for name in NODES:
            # A cluster begins empty, but nodes keep the images that they have.
            folder = place.node(name)
            for entry in folder.iterdir() if folder.exists() else ():
                if entry.name not in KEPT:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for part in PARTS:
            self.ledger.start(part, [*UNSHARE, "sleep", "infinity"], self.state / f"{part}.log")
        switch = self._first("switch")
        make_switch(switch, SWITCH)
        plug_in(switch, self._first("client"), "client", CLIENT, SWITCH, {})
        for name in self.nodes:
            self.start_node(name)
        say("the nodes' images")
        with ThreadPoolExecutor(1 + len(WORKERS)) as pool:
            # Archives are checked or written while the control plane starts.
            found = pool.submit(self.images) if self.workers else None
            bringing = [pool.submit(self._bring_all, name, found) for name in self.workers if found]
            eventually("the API server", PATIENCE, lambda: self.kubectl("get", "--raw", "/readyz"))
            made = addons(place.metrics) + "---\n" + volumes(place, self.workers)
            self.kubectl("apply", "--filename=-", stdin=made)
            for done in bringing:
                done.result()
        say("the nodes")
        eventually("the nodes", PATIENCE, lambda: self.kubectl("get", "node", *self.nodes))
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", f"--timeout={PATIENCE}s")

    def _bring_all(self, name: str, found: Future[dict[str, tuple[str, Path]]]) -> None:
        self.bring(name, found.result())

    def _alone(self) -> None:
        if self._lock is None:
            self.state.mkdir(parents=True, exist_ok=True)
            lock = (self.state / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise NotReady(
                    f"Another process has just started a cluster in {self.state}, or tests with it."
                ) from None
            self._lock = lock

    def start_node(self, name: str) -> None:
        """Start a node's programs, also those of one that `end_node` ended: it comes back with what it had on disk."""
        place = self.place()
        pods = self.ledger.make(f"{name}/pods")
        self.ledger.make(f"{name}/node")
        log = place.node(name) / "log" / "node.log"
        self.ledger.start(f"{name}/node", [*UNSHARE, *configure(place, name, pods)], log)
        routes = {PODS[other]: NODES[other] for other in NODES if other != name}
        plug_in(self._first("switch"), self._first(f"{name}/node"), name, NODES[name], SWITCH, routes)

    def end_node(self, name: str) -> None:
        """Kill all that runs on a node, pods first to last, as a loss of power does."""
        self.ledger.release(name)

    def _first(self, part: str) -> int:
        return eventually(f"the first process of {part}", PATIENCE, lambda: self.ledger.first(part))

    def images(self) -> dict[str, tuple[str, Path]]:
        """Archives of all images: name on the nodes -> image id, archive."""
        return images.archives()

    def bring(self, name: str, found: dict[str, tuple[str, Path]]) -> None:
        """Import images on a worker; the control plane runs no pods and needs none."""
        node = self.at(name)
        eventually(f"containerd of {name}", PATIENCE, lambda: run([*node, "ctr", "version"]))
        images.bring(found, node, self.state / "nodes" / name / "images.json")

    def stop(self) -> None:
        """Take everything away that runs, of this start or of one that was killed."""
        self.ledger.release()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def running(self) -> bool:
        return bool(self.ledger.processes())

    # --- commands

    def at(self, node: str) -> list[str]:
        """The prefix that runs a command on a node."""
        return within(self._first(f"{node}/node"), whole=True)

    def manage(self, node: str, action: str, program: str) -> None:
        """Start, stop, restart or signal a program of a node ("stop", "signal STOP")."""
        control = str(Path(sys.executable).parent / "supervisorctl")
        configuration = str(self.state / "nodes" / node / "manager.conf")
        run([*self.at(node), control, "-c", configuration, *action.split(), program])

    def outside(self) -> list[str]:
        """The prefix that runs a command as a client outside of the cluster: on a machine of its own, as processor time goes."""
        client = self._first("client")
        self.ledger.make("callers")
        return [*self.ledger.inside("callers"), *within(client)]

    def beside(self, node: str) -> list[str]:
        """The prefix that runs a command in a node's network; network policies let it pass, as they do kubelet's probes."""
        self.ledger.make("callers")
        return [*self.ledger.inside("callers"), *within(self._first(f"{node}/node"))]

    def environment(self) -> dict[str, str]:
        folders = [str(self.tools / name / "bin") for name in ("kubernetes", "chart")]
        return os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join([*folders, str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run([*self.outside(), "kubectl", *arguments], env=self.environment(), input=stdin)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", "--output=json", f"--namespace={NAMESPACE}", *arguments))

    def helm(self, *arguments: str) -> str:
        return run([*self.outside(), "helm", f"--namespace={NAMESPACE}", *arguments], env=self.environment())

    # --- Genmesh

    def install(self, *values: Path, settings: Iterable[str] = (), timeout: str = "360s") -> str:
        """Install or upgrade the chart and wait until it serves."""
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
        self.kubectl("apply", "--filename=-", stdin=json.dumps(namespace))
        files = [f"--values={file}" for file in (*VALUES, *values)]
        given = [f"--set={setting}" for setting in settings]
        return self.helm("upgrade", "--install", RELEASE, str(CHART), *files, *given, "--wait", f"--timeout={timeout}")

    def target(self, node: str = WORKERS[0]) -> str:
        """The gateway's address for a client outside: a node's."""
        ports = self.get("service", RELEASE)["spec"]["ports"]
        port = next(p["nodePort"] for p in ports if p["name"] == "grpc")
        return f"{NODES[node]}:{port}"

    def key(self, tenant: str = "default") -> str:
        return self.kubectl(
            f"--namespace={NAMESPACE}",
            "get",
            "secret",
            f"{RELEASE}-api-keys",
            f'--output=go-template={{{{index .data "key-{tenant}" | base64decode}}}}',
        )

    def caller(self) -> dict[str, str]:
        """The environment of a client's command: `environment`, the gateway and a key to it."""
        return self.environment() | {"GENMESH_TARGET": self.target(), "GENMESH_API_KEY": self.key()}
