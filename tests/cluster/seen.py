"""What the cluster's own Prometheus says."""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.parse import quote

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster

# Network policies let nobody reach Prometheus, so its kubelet does it: a forwarded port, and a request there.
READ = """
import subprocess, sys, urllib.request
forwarding = subprocess.Popen(
    ["kubectl", "port-forward", sys.argv[1], sys.argv[2], ":9090"], stdout=subprocess.PIPE, text=True
)
try:
    port = forwarding.stdout.readline().split(" -> ")[0].rpartition(":")[2]
    print(urllib.request.urlopen(f"http://127.0.0.1:{port}{sys.argv[3]}", timeout=10).read().decode())
finally:
    forwarding.terminate()
"""


def ask(cluster: Cluster, path: str) -> object:
    """Prometheus' API."""
    done = subprocess.run(
        [
            *cluster.outside(), sys.executable, "-c", READ, f"--namespace={NAMESPACE}",
            f"deployment/{RELEASE}-prometheus", "/api/v1/" + path,
        ],
        env=cluster.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def values(cluster: Cluster, query: str, at: float | None = None, label: str = "instance") -> dict[str, float]:
    """A query's values now or then, by a label."""
    when = f"&time={at:.3f}" if at else ""
    found: dict[str, list[dict[str, dict[str, str]]]] = ask(cluster, f"query?query={quote(query)}{when}")  # type: ignore[assignment]
    return {one["metric"].get(label, ""): float(one["value"][1]) for one in found["result"]}


def gained(cluster: Cluster, query: str, since: float, until: float) -> dict[str, float]:
    """How much each instance's counter grew between two moments; one that was not there began at 0."""
    before, after = values(cluster, query, since), values(cluster, query, until)
    return {instance: value - before.get(instance, 0.0) for instance, value in after.items()}
