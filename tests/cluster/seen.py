"""What the cluster's own Prometheus says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster

# Network policies let nobody reach Prometheus, so its kubelet does it: a forwarded port, and a request there.
READ = """
import json, subprocess, sys, urllib.request
forwarding = subprocess.Popen(
    ["kubectl", "port-forward", sys.argv[1], sys.argv[2], ":9090"], stdout=subprocess.PIPE, text=True
)
try:
    port = forwarding.stdout.readline().split(" -> ")[0].rpartition(":")[2]
    for path in json.load(sys.stdin):
        print(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10).read().decode())
finally:
    forwarding.terminate()
"""


def ask(cluster: Cluster, *paths: str) -> list[Any]:
    """What Prometheus' API says of each."""
    done = subprocess.run(
        [
            *cluster.outside(), sys.executable, "-c", READ, f"--namespace={NAMESPACE}",
            f"deployment/{RELEASE}-prometheus",
        ],
        env=cluster.environment(), input=json.dumps(paths), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["data"] for line in done.stdout.splitlines()]


def numbers(cluster: Cluster, queries: Sequence[str]) -> list[list[float]]:
    """The values of each query now."""
    found = ask(cluster, *(f"query?query={quote(query)}" for query in queries))
    return [[float(sample["value"][1]) for sample in one["result"]] for one in found]


def values(cluster: Cluster, query: str, at: float | None = None, label: str = "instance") -> dict[str, float]:
    """A query's values now or then, by a label."""
    when = f"&time={at:.3f}" if at else ""
    (found,) = ask(cluster, f"query?query={quote(query)}{when}")
    return {one["metric"].get(label, ""): float(one["value"][1]) for one in found["result"]}


def gained(cluster: Cluster, query: str, since: float, until: float) -> dict[str, float]:
    """How much each instance's counter grew between two moments; one that was not there began at 0."""
    before, after = values(cluster, query, since), values(cluster, query, until)
    return {instance: value - before.get(instance, 0.0) for instance, value in after.items()}
