"""What the cluster's own Prometheus says."""

from __future__ import annotations

import json
from urllib.parse import quote

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster


def ask(cluster: Cluster, path: str) -> object:
    """Prometheus' API, through Kubernetes'."""
    root = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}-prometheus:9090/proxy/api/v1/"
    return json.loads(cluster.kubectl("get", "--raw", root + path))["data"]


def values(cluster: Cluster, query: str, at: float | None = None, label: str = "instance") -> dict[str, float]:
    """A query's values now or then, by a label."""
    when = f"&time={at:.3f}" if at else ""
    found: dict[str, list[dict[str, dict[str, str]]]] = ask(cluster, f"query?query={quote(query)}{when}")  # type: ignore[assignment]
    return {one["metric"].get(label, ""): float(one["value"][1]) for one in found["result"]}


def gained(cluster: Cluster, query: str, since: float, until: float) -> dict[str, float]:
    """How much each instance's counter grew between two moments; one that was not there began at 0."""
    before, after = values(cluster, query, since), values(cluster, query, until)
    return {instance: value - before.get(instance, 0.0) for instance, value in after.items()}
