"""What `helm install` gives on a real cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from tests.cluster.seen import values

FORGET = """
import os
from genmesh import Client
with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
    for found in client.vector_search.ListCollections({}).collections:
        client.vector_search.DeleteCollection({"collection": found.name})
"""


def pods(cluster: Cluster) -> list[Any]:
    """The release's, less those that end."""
    found = cluster.get("pods", "--selector=app.kubernetes.io/name=genmesh,app.kubernetes.io/component!=test")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def test_the_chart_proves_itself(cluster: Cluster) -> None:
    told = cluster.helm("test", RELEASE, "--logs", "--timeout=120s")
    assert "Phase:          Succeeded" in told
    assert "answer: " in told
    assert "image: 128 x 128" in told
    assert "All is well." in told


def test_pods_run_as_the_restricted_standard_wants_them(cluster: Cluster) -> None:
    found = pods(cluster)
    assert len(found) == 11
    for pod in found:
        name = pod["metadata"]["name"]
        assert not any("kube-api-access" in v["name"] for v in pod["spec"]["volumes"]), name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, name
    assert {pod["spec"]["nodeName"] for pod in found} == {"worker-1", "worker-2"}


def test_the_notes_work_as_they_stand(cluster: Cluster) -> None:
    notes = cluster.helm("get", "notes", RELEASE)
    commands = [line.strip() for line in notes.splitlines() if re.match(r"  (kubectl|helm|GENMESH_TARGET)", line)]
    assert len(commands) == 5
    wait, key, forward, ask, test = commands
    shell = [*cluster.outside(), "bash", "-c"]

    def run(command: str, **more: str) -> str:
        done = subprocess.run(
            [*shell, command], env=cluster.environment() | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, command + done.stderr
        return done.stdout

    assert "successfully rolled out" in run(wait)
    secret = run(key)
    assert secret == cluster.key()
    with subprocess.Popen([*shell, "exec " + forward], env=cluster.environment(), stdout=subprocess.PIPE) as forwarding:
        try:
            assert forwarding.stdout is not None
            assert b"Forwarding" in forwarding.stdout.readline()
            client = shlex.join([os.path.join(os.path.dirname(sys.executable), "genmesh")])
            target = "GENMESH_TARGET=127.0.0.1:8080 GENMESH_API_KEY=" + secret
            run(f"{target} {client} ingest deploy/local/samples")
            assert "seven years" in run(
                ask.replace("GENMESH_API_KEY=...", f"GENMESH_API_KEY={secret}").replace(" genmesh ", f" {client} ")
            )
        finally:
            forwarding.terminate()
    assert "Succeeded" in run(test)


def test_prometheus_finds_every_pod(cluster: Cluster) -> None:
    scraped = {"gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag", "triton"}

    def up() -> bool:
        found = values(cluster, "up", label="job")
        return {job.removeprefix("genmesh-") for job, value in found.items() if value} == scraped

    assert eventually("every pod in Prometheus", 40, up)


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
