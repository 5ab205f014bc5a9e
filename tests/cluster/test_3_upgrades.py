"""What an SRE does while calls come in: none of them may fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster import images
from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.nodes import WORKERS
from tests.cluster.seen import values
from tests.cluster.steady import steady
from tests.cluster.test_1_install import pods

REVISION = """
import os
from genmesh import Client
with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
    print(client.embedding.Embed({"inputs": ["x"]}).model_revision)
"""
ARCHIVES = ROOT / ".state" / "images"
WORKLOADS = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag", "triton")


def replaced(cluster: Cluster, before: set[str], count: int) -> None:
    """Every pod is another than before."""
    after = {pod["metadata"]["uid"] for pod in pods(cluster) if "deletionTimestamp" not in pod["metadata"]}
    assert len(after) == count
    assert not before & after


def test_an_upgrade_that_replaces_every_pod_and_the_way_back(cluster: Cluster, folder: Path) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(cluster)}
    changed = [
        "logLevel=WARNING", "triton.sharedMemory=900Mi", "redis.maxMemory=200mb", "prometheus.retention=1d",
        "milvus.resources.limits.memory=3Gi",
    ]  # fmt: skip
    with steady(cluster, folder, after=20) as load:
        cluster.install(settings=changed)
        replaced(cluster, before, 11)
        between = {pod["metadata"]["uid"] for pod in pods(cluster)}
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=240s")
        replaced(cluster, between, 11)
    assert not load.causes()


def test_every_workload_is_restarted_in_turn(cluster: Cluster, folder: Path) -> None:
    with steady(cluster, folder, after=20) as load:
        for name in WORKLOADS:
            workload = f"deployment/{RELEASE}-{name}"
            cluster.kubectl("rollout", "restart", workload, f"--namespace={NAMESPACE}")
            cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", "--timeout=120s")
    assert not load.causes()


def test_scaling_up_and_down_and_draining_a_worker(cluster: Cluster, folder: Path) -> None:
    """The worker that holds Milvus' volume cannot be drained without stopping it; the other can."""
    home = next(p["spec"]["nodeName"] for p in pods(cluster) if p["metadata"]["name"] == f"{RELEASE}-milvus-0")
    other = "worker-2" if home == "worker-1" else "worker-1"
    with steady(cluster, folder, after=20, node=home) as load:
        for replicas in (2, 1):
            for name in WORKLOADS:
                cluster.kubectl(
                    "scale", f"deployment/{RELEASE}-{name}", f"--replicas={replicas}", f"--namespace={NAMESPACE}"
                )
            for name in WORKLOADS:
                cluster.kubectl(
                    "rollout", "status", f"deployment/{RELEASE}-{name}", f"--namespace={NAMESPACE}", "--timeout=120s"
                )
            if replicas == 2:
                cluster.kubectl("drain", other, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
                cluster.kubectl("uncordon", other)
    assert not load.causes()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("image: {tag: not-there}", "ErrImageNeverPull|ImagePullBackOff|ErrImagePull"),
        ('services: {embedding: {env: {GENMESH_NO_SUCH_SETTING: "1"}}}', "CrashLoopBackOff|Error"),
    ],
    ids=["an image that is not there", "a process that does not start"],
)
def test_an_upgrade_that_cannot_start_leaves_the_old_serving(
    cluster: Cluster, folder: Path, tmp_path: Path, settings: str, reason: str
) -> None:
    (tmp_path / "values.yaml").write_text(settings)
    with steady(cluster, folder, after=5) as load:
        with pytest.raises(RuntimeError, match=r"UPGRADE FAILED.*(not ready|deadline exceeded)|deadline exceeded"):
            cluster.install(tmp_path / "values.yaml", timeout="30s")
        why = json.dumps([pod["status"].get("containerStatuses", []) for pod in pods(cluster)])
        assert any(one in why for one in reason.split("|")), why
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=120s")
    assert not load.causes()


@pytest.fixture(scope="module")
def swapped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models whose embedder was built anew, in another precision; nodes have images with them, sound and broken."""
    models = tmp_path_factory.mktemp("swap") / "models"
    shutil.copytree(ROOT / ".state" / "models", models, symlinks=True)
    catalogue = models.parent / "models.yaml"
    text = (ROOT / "model_repository" / "models.yaml").read_text()
    catalogue.write_text(text.replace("precision: int8", "precision: fp16", 1))
    command = [ROOT / ".state" / "venv" / "triton" / "bin" / "genmesh-models", "build", "--into", models, "embedder"]
    subprocess.run([*command, "--catalogue", catalogue], check=True)
    version = json.loads((models / "embedder" / "model.json").read_text())["version"]
    bring(cluster, models, "swapped")
    weights = models / "embedder" / version / "weights" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    bring(cluster, models, "broken")
    yield models
    images.forget("swapped", ARCHIVES)
    images.forget("broken", ARCHIVES)


def bring(cluster: Cluster, models: Path, tag: str) -> None:
    """Triton's image with these models, on every worker."""
    found = images.archives(ARCHIVES, images.with_models(models, tag))
    for worker in WORKERS:
        cluster.bring(worker, found)


def revision(cluster: Cluster) -> str:
    """Of the embedder that answers."""
    return subprocess.run(
        [*cluster.outside(), sys.executable, "-c", REVISION], env=cluster.caller(), check=True, capture_output=True, text=True
    ).stdout.strip()  # fmt: skip


def test_a_model_is_swapped_under_load(cluster: Cluster, swapped: Path, folder: Path) -> None:
    """Old pods of the services ask for the version that they know, new ones for the new; and so on the way back."""
    before = revision(cluster)
    with steady(cluster, folder, after=20) as load:
        cluster.install(settings=["triton.image.tag=swapped"])
        eventually("the new model", 60, lambda: revision(cluster) != before)
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=240s")
    assert not load.causes()
    eventually("the model of before", 60, lambda: revision(cluster) == before)


def test_a_model_that_does_not_load_leaves_the_old_serving(cluster: Cluster, swapped: Path, folder: Path) -> None:
    with steady(cluster, folder, after=5) as load:
        with pytest.raises(RuntimeError, match=r"not ready|deadline exceeded"):
            cluster.install(settings=["triton.image.tag=broken"], timeout="45s")
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=240s")
    assert not load.causes()


def test_no_alert_fired(cluster: Cluster) -> None:
    """Since Prometheus was replaced by the first upgrade, but for those on TTFT: two cores that carry three machines are
    slower than the objective."""
    fired = values(cluster, 'count_over_time(ALERTS{alertstate="firing"}[1h])', label="alertname")
    assert not [name for name in fired if not name.startswith("GenmeshTtft")], fired
    assert values(cluster, "up")
