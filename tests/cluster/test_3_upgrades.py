"""What an SRE does while calls come in: none of them may fail."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster import images
from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from tests.cluster.seen import FIRING, fired, values
from tests.cluster.steady import Load, steady
from tests.cluster.workloads import pods, settled, uids

REVISION = """
import os
from genmesh import Client
with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
    print(client.embedding.Embed({"inputs": ["x"]}).model_revision)
"""
WORKLOADS = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag", "triton")
LATE = "not ready|deadline exceeded"  # what Helm says where pods do not become ready
STATE = (f"deployment/{RELEASE}-redis", f"statefulset/{RELEASE}-milvus", f"deployment/{RELEASE}-prometheus")


def replaced(cluster: Cluster, before: set[str]) -> None:
    """Every pod is another than before."""
    settled(cluster)
    assert not before & uids(cluster)


CLAIM = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: models}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadOnlyMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  hostPath: {path: PATH}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [ReadOnlyMany], storageClassName: "", volumeName: models, resources: {requests: {storage: 1Gi}}}
"""


def undisturbed(cluster: Cluster, load: Load) -> None:
    """No call failed, no container began anew, and no alert fired since Prometheus was replaced last."""
    assert not load.causes()
    assert not load.restarted
    assert not fired(cluster, f"count_over_time({FIRING}[1h])")


def test_an_upgrade_that_replaces_every_pod_and_the_way_back(cluster: Cluster, folder: Path) -> None:
    before = uids(cluster)
    changed = [
        "logLevel=WARNING", "triton.sharedMemory=900Mi", "redis.maxMemory=200mb", "prometheus.retention=1d",
        "milvus.resources.limits.memory=3Gi",
    ]  # fmt: skip
    with steady(cluster, folder, after=20) as load:
        cluster.install(settings=changed)
        replaced(cluster, before)
        between = uids(cluster)
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=360s")
        replaced(cluster, between)
    undisturbed(cluster, load)


def test_every_workload_is_restarted_in_turn(cluster: Cluster, folder: Path) -> None:
    with steady(cluster, folder, after=20) as load:
        for workload in (*(f"deployment/{RELEASE}-{name}" for name in WORKLOADS), *STATE):
            cluster.kubectl("rollout", "restart", workload, f"--namespace={NAMESPACE}")
            cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", "--timeout=120s")
    undisturbed(cluster, load)


def test_long_streams_outlive_the_pods_that_serve_them(cluster: Cluster) -> None:
    """Gateway, generation and Triton are replaced while answers come in that take longer than their replacement."""
    settled(cluster)
    before = uids(cluster)
    command = [*cluster.outside(), sys.executable, "-m", "tests.cluster.streams", "56", "35"]
    ending = set()
    with subprocess.Popen(command, env=cluster.caller(), cwd=ROOT, stdout=subprocess.PIPE, text=True) as streams:
        assert streams.stdout is not None
        assert streams.stdout.readline() == "begun\n"
        parts = ("gateway", "generation", "triton")
        cluster.kubectl(
            "rollout", "restart", *(f"deployment/{RELEASE}-{name}" for name in parts), f"--namespace={NAMESPACE}"
        )
        while streams.poll() is None:
            found = cluster.get("pods", "--selector=app.kubernetes.io/name=genmesh")["items"]
            ended = [pod["metadata"] for pod in found if "deletionTimestamp" in pod["metadata"]]
            ending |= {metadata["labels"]["app.kubernetes.io/component"] for metadata in ended}
            time.sleep(1)  # kubectl takes its share of two cores
        assert json.loads(streams.stdout.read()) == ["OK"] * 56
    assert ending == set(parts)  # all of them had been told to end while the streams went on
    settled(cluster)
    assert len(before & uids(cluster)) == len(before) - len(parts)


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
    undisturbed(cluster, load)


@pytest.mark.parametrize(
    ("settings", "told", "why"),
    [
        # Nothing is changed where the look at the new images fails.
        ("{image: {tag: not-there}, preflight: {deadlineSeconds: 20}}", "job genmesh-preflight failed: DeadlineExceeded", None),
        ("{image: {tag: not-there}, preflight: {enabled: false}}", LATE, "ErrImageNeverPull|ImagePullBackOff|ErrImagePull"),
        ('{services: {rag: {env: {GENMESH_CANDIDATES: "many"}}}}', "rag: GENMESH_CANDIDATES: Input should be a valid integer", None),
        (
            '{services: {rag: {env: {GENMESH_CANDIDATES: "many"}}}, preflight: {enabled: false}}', LATE,
            "GENMESH_CANDIDATES: Input should be a valid integer",
        ),
    ],
    ids=[
        "an image that is not there", "an image that is not there and not tried", "a setting that cannot be",
        "a process that does not start",
    ],
)  # fmt: skip
def test_an_upgrade_that_cannot_start_leaves_the_old_serving(
    cluster: Cluster, folder: Path, tmp_path: Path, settings: str, told: str, why: str | None
) -> None:
    (tmp_path / "values.yaml").write_text(settings)
    settled(cluster)
    before = uids(cluster)
    with steady(cluster, folder, after=5) as load:
        with pytest.raises(RuntimeError, match="UPGRADE FAILED") as failed:
            cluster.install(tmp_path / "values.yaml", timeout="30s")
        assert re.search(told, str(failed.value))
        found = json.dumps([pod["status"].get("containerStatuses", []) for pod in pods(cluster)])
        assert re.search(why, found) if why else uids(cluster) == before, found
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=120s")
    assert not load.causes()


def another_embedder(models: Path) -> None:
    """Build it in another precision, as a new version."""
    catalogue = models.parent / "models.yaml"
    text = (ROOT / "model_repository" / "models.yaml").read_text()
    catalogue.write_text(text.replace("precision: int8", "precision: fp16", 1))
    command = [ROOT / ".state" / "venv" / "triton" / "bin" / "genmesh-models", "build", "--into", models, "embedder"]
    subprocess.run([*command, "--catalogue", catalogue], check=True)


@pytest.fixture(scope="module")
def swapped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models whose embedder was built anew, in another precision; nodes have images with them, sound and broken."""
    models = tmp_path_factory.mktemp("swap") / "models"
    shutil.copytree(ROOT / ".state" / "models", models, symlinks=True)
    another_embedder(models)
    version = json.loads((models / "embedder" / "model.json").read_text())["version"]
    bring(cluster, models, "swapped")
    weights = models / "embedder" / version / "weights" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    bring(cluster, models, "broken")
    yield models
    images.forget("swapped")
    images.forget("broken")


def bring(cluster: Cluster, models: Path, tag: str) -> None:
    """Triton's image with these models, on every worker."""
    found = images.archives(images.with_models(models, tag))
    for worker in cluster.workers:
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
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=360s")
    undisturbed(cluster, load)
    eventually("the model of before", 60, lambda: revision(cluster) == before)


def test_models_on_a_volume_are_swapped_without_an_image(cluster: Cluster, folder: Path) -> None:
    """As the runbook says: built into the volume, then those who read it are restarted at once."""
    models = cluster.state / "claim" / "models"
    shutil.rmtree(models.parent, ignore_errors=True)
    shutil.copytree(ROOT / ".state" / "models", models, symlinks=True)
    claim = CLAIM.replace("PATH", str(models))
    cluster.kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=claim)
    before = revision(cluster)
    cluster.install(settings=["triton.modelsClaim=models"])
    settled(cluster)
    assert revision(cluster) == before
    another_embedder(models)
    readers = [
        f"deployment/{RELEASE}-{name}" for name in ("triton", "embedding", "tokenization", "generation", "diffusion")
    ]
    with steady(cluster, folder, after=20) as load:
        cluster.kubectl("rollout", "restart", *readers, f"--namespace={NAMESPACE}")
        for workload in readers:
            cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", "--timeout=120s")
        eventually("the new model", 60, lambda: revision(cluster) != before)
        cluster.install()
        settled(cluster)
    undisturbed(cluster, load)
    cluster.kubectl("delete", f"--namespace={NAMESPACE}", "--filename=-", stdin=claim)


@pytest.mark.parametrize(
    ("tried", "told"),
    [("true", "openvino_model.bin is not the file that was verified"), ("false", LATE)],
    ids=["told before anything changes", "found by Triton"],
)
def test_a_model_that_does_not_verify_leaves_the_old_serving(
    cluster: Cluster, swapped: Path, folder: Path, tried: str, told: str
) -> None:
    with steady(cluster, folder, after=5) as load:
        with pytest.raises(RuntimeError, match=told):
            cluster.install(settings=["triton.image.tag=broken", f"preflight.enabled={tried}"], timeout="45s")
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=360s")
    assert not load.causes()


def test_no_alert_fired(cluster: Cluster) -> None:
    """Since Prometheus was replaced by the first upgrade."""
    found = fired(cluster, f"count_over_time({FIRING}[1h])")
    assert not found, found
    assert values(cluster, "up")
