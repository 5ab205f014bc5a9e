"""The release's pods and their processes, and the moment at which nothing of the last change to them is left."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import Cluster, eventually

# As the chart's CPU values have it: seven services, Triton, Redis, Milvus and Prometheus.
PODS = 11


def pods(cluster: Cluster) -> list[Any]:
    """The release's, less those that end."""
    jobs = "app.kubernetes.io/component notin (test, preflight)"
    found = cluster.get("pods", f"--selector=app.kubernetes.io/name=genmesh,{jobs}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def uids(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(cluster)}


def settled(cluster: Cluster, count: int = PODS, seconds: float = 120) -> None:
    """Wait until there are as many pods as wanted, all of them ready.

    Helm and kubectl wait for new ones to be ready; old ones are told to end only once those were it for a while.
    """

    def ready() -> bool:
        found = pods(cluster)
        conditions = [{c["type"]: c["status"] for c in pod["status"].get("conditions", ())} for pod in found]
        return len(found) == count and all(c.get("Ready") == "True" for c in conditions)

    eventually(f"{count} pods, all ready", seconds, ready)


def processes(cluster: Cluster, pod: str) -> list[int]:
    """The processes of a pod's container, as seen from here."""
    uid = cluster.get("pod", pod)["metadata"]["uid"]
    found = []
    for process in sorted(cluster.ledger.processes()):
        with contextlib.suppress(FileNotFoundError):
            if (
                uid in Path(f"/proc/{process}/cgroup").read_text()
                and "pause" not in Path(f"/proc/{process}/cmdline").read_text()
            ):
                found.append(process)
    return found


def kill(found: list[int]) -> None:
    for process in found:
        with contextlib.suppress(ProcessLookupError):  # it ended with its parent
            os.kill(process, signal.SIGKILL)


def one(cluster: Cluster, component: str) -> str:
    ready = [p for p in pods(cluster) if p["metadata"]["labels"]["app.kubernetes.io/component"] == component]
    return str(ready[0]["metadata"]["name"])


def restarts(cluster: Cluster, pod: str) -> int:
    return sum(status["restartCount"] for status in cluster.get("pod", pod)["status"]["containerStatuses"])
