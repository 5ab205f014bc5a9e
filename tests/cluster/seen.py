"""What the cluster's own Prometheus says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from deploy.cluster.cluster import ROOT, Cluster


def ask(cluster: Cluster, *paths: str) -> list[Any]:
    """What Prometheus' API says of each."""
    done = subprocess.run(
        [*cluster.outside(), sys.executable, "-m", "tests.cluster.forwarded"],
        env=cluster.environment(), cwd=ROOT, input=json.dumps(paths), capture_output=True, text=True, check=False,
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


FIRING = 'ALERTS{alertstate="firing"}'


def fired(cluster: Cluster, query: str) -> set[str]:
    """Alerts but for those on TTFT: two cores that carry three machines are slower than the objective."""
    return {name for name in values(cluster, query, label="alertname") if not name.startswith("GenmeshTtft")}


def fired_since(cluster: Cluster, begun: float) -> set[str]:
    """The same, of the time since then."""
    return fired(cluster, f"count_over_time({FIRING}[{math.ceil(time.time() - begun)}s])")


def gained(cluster: Cluster, query: str, since: float, until: float) -> dict[str, float]:
    """How much each instance's counter grew between two moments; one that was not there began at 0."""
    before, after = values(cluster, query, since), values(cluster, query, until)
    return {instance: value - before.get(instance, 0.0) for instance, value in after.items()}
