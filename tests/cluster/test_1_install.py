"""What `helm install` gives on a real cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster, eventually


def pods(cluster: Cluster) -> list[Any]:
    return list(
        cluster.get("pods", "--selector=app.kubernetes.io/name=genmesh,app.kubernetes.io/component!=test")["items"]
    )


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
        path = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}-prometheus:9090/proxy/api/v1/query?query=up"
        import json

        found = json.loads(cluster.kubectl("get", "--raw", path))["data"]["result"]
        return {r["metric"]["job"].removeprefix("genmesh-") for r in found if r["value"][1] == "1"} == scraped

    assert eventually("every pod in Prometheus", 40, up)


def test_metrics_of_the_cluster(cluster: Cluster) -> None:
    """metrics-server, which autoscaling on CPU needs."""
    told = eventually("kubectl top", 60, lambda: cluster.kubectl("top", "pods", f"--namespace={NAMESPACE}"))
    assert f"{RELEASE}-triton" in told
