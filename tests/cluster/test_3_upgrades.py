"""What an SRE does while calls come in: none of them may fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster
from tests.cluster.steady import steady
from tests.cluster.test_1_install import pods

SERVICES = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag")


def test_an_upgrade_that_replaces_every_pod(cluster: Cluster, folder: Path) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(cluster)}
    changed = [
        "logLevel=WARNING", "triton.sharedMemory=900Mi", "redis.maxMemory=200mb", "prometheus.retention=1d",
        "milvus.resources.limits.memory=3Gi",
    ]  # fmt: skip
    with steady(cluster, folder, after=20) as load:
        cluster.install(settings=changed)
    after = {pod["metadata"]["uid"] for pod in pods(cluster) if "deletionTimestamp" not in pod["metadata"]}
    assert len(after) == 11
    assert not before & after
    assert not load.causes()


@pytest.mark.parametrize("name", [*SERVICES, "triton"])
def test_a_restart_of_one_workload(cluster: Cluster, folder: Path, name: str) -> None:
    workload = f"deployment/{RELEASE}-{name}"
    with steady(cluster, folder, after=15) as load:
        cluster.kubectl("rollout", "restart", workload, f"--namespace={NAMESPACE}")
        cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", "--timeout=120s")
    assert not load.causes()
