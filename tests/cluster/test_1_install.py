"""What `helm install` gives on a real cluster; `helm test` is in tests/smoke, and in the notes that are followed here."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.images import TAG
from deploy.cluster.kernel import run, within
from deploy.cluster.nodes import NODES
from tests.cluster.notes import follow_notes
from tests.cluster.reach import PROBE
from tests.cluster.seen import values
from tests.cluster.workloads import PODS, pods

FORGET = """
import os
from genmesh import Client
with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
    for found in client.vector_search.ListCollections({}).collections:
        client.vector_search.DeleteCollection({"collection": found.name})
"""


def test_it_is_there_in_time(seconds_to_answer: float) -> None:
    print(f"ready after {seconds_to_answer:.0f} s")
    assert seconds_to_answer <= 300


@pytest.mark.parametrize(("name", "megabytes"), [("services", 400), ("triton-cpu", 2000)])
def test_images_are_small(cluster: Cluster, name: str, megabytes: int) -> None:
    """Unpacked, with the starter models."""
    _, archive = cluster.images()[f"docker.io/genmesh/{name}:{TAG}"]
    assert archive.stat().st_size <= megabytes * 1e6


def test_pods_run_as_the_restricted_standard_wants_them(cluster: Cluster) -> None:
    found = pods(cluster)
    assert len(found) == PODS
    for pod in found:
        name = pod["metadata"]["name"]
        assert not any("kube-api-access" in v["name"] for v in pod["spec"]["volumes"]), name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, name
    assert {pod["spec"]["nodeName"] for pod in found} == {"worker-1", "worker-2"}


def test_the_notes_work_as_they_stand(cluster: Cluster, tmp_path: Path) -> None:
    follow_notes(cluster, tmp_path)


def test_prometheus_finds_every_pod(cluster: Cluster) -> None:
    services = {"gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag"}
    scraped = services | {"triton", "redis", "milvus", "prometheus"}

    def up() -> bool:
        found = values(cluster, "sum by (job) (up)", label="job")
        return {job.removeprefix("genmesh-") for job in found} == scraped and sum(found.values()) == len(pods(cluster))

    assert eventually("every pod in Prometheus", 40, up)


@pytest.mark.parametrize("part", ["client", *(f"{node}/node" for node in NODES)])
def test_no_network_namespace_has_a_way_out(cluster: Cluster, part: str) -> None:
    """Neither to this machine, which listens on all of its addresses here, nor to any beyond it."""
    inside = within(cluster.ledger.first(part))
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        addresses = ["127.0.0.1", *run(["hostname", "--all-ip-addresses"]).split(), "192.0.2.1"]
        tried = json.dumps([[address, address, port] for address in addresses if ":" not in address])
        found = json.loads(run([*inside, sys.executable, "-c", PROBE, tried]))
        assert set(found) >= {"127.0.0.1", "192.0.2.1"}
        assert "open" not in found.values(), found
        socket.create_connection(("127.0.0.1", port), timeout=2).close()


def test_metrics_of_the_cluster(cluster: Cluster) -> None:
    """metrics-server, which autoscaling on CPU needs."""
    told = eventually("kubectl top", 60, lambda: cluster.kubectl("top", "pods", f"--namespace={NAMESPACE}"))
    assert f"{RELEASE}-triton" in told


def test_vectors_are_backed_up_and_restored(cluster: Cluster) -> None:
    """The runbook's commands, as they stand."""
    section = (ROOT / "docs" / "runbook.md").read_text().partition("## Back up and restore")[2].partition("\n## ")[0]
    backup, restore = (block.strip() for block in section.split("```")[1::2])
    environment = cluster.caller()

    def run(command: str, folder: Path, check: bool = True) -> str:
        done = subprocess.run(
            [*cluster.outside(), "bash", "-euc", command], env=environment, cwd=folder, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, command + done.stderr
        return done.stdout

    def asked() -> str:
        return run('genmesh ask "How long are audit logs kept?"', ROOT, check=False)

    with tempfile.TemporaryDirectory() as name:
        run("genmesh ingest deploy/local/samples", ROOT)
        eventually("an answer", 30, lambda: "seven years" in asked())
        run(backup, Path(name))
        rollout = f"kubectl --namespace {NAMESPACE} rollout status deployment/{RELEASE}-vector-search --timeout=60s"
        run(rollout, ROOT)
        run(f"{shlex.quote(sys.executable)} -c {shlex.quote(FORGET)}", ROOT)
        assert "seven years" not in asked()
        run(restore, Path(name))
        run(rollout, ROOT)
        eventually("the restored vectors", 60, lambda: "seven years" in asked())
