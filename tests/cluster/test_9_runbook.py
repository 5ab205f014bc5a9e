"""The runbook's commands, run as they stand, section by section.

Not here: what other tests run from the runbook (the production secrets, backup and restore) or do with the same commands
on files of their own (a model swapped, a certificate renewed), and what needs a registry or a public name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, VALUES, Cluster, eventually
from tests.cluster.workloads import kill, one, pods, processes, restarts, settled

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def blocks(heading: str) -> list[str]:
    """The commands of a section, block by block."""
    section = RUNBOOK.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    found = [block.strip() for block in section.split("```")[1::2]]
    assert found, heading
    return found


def follow(cluster: Cluster, commands: str) -> str:
    """Run them in one shell, as the runbook's first lines say; what they printed."""
    on_this_cluster = "".join(f" --values {file}" for file in VALUES)
    commands = commands.replace("values-cpu.yaml", f"values-cpu.yaml{on_this_cluster}")
    done = subprocess.run(
        [*cluster.outside(), "bash", "-euo", "pipefail", "-c", commands], env=cluster.environment() | {"EDITOR": "true"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def as_it_was(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.install()


def test_uninstalled_with_all_that_it_kept_and_installed_anew(cluster: Cluster) -> None:
    install, forget = blocks("Install")[:2]
    follow(cluster, f"helm uninstall {RELEASE} --namespace {NAMESPACE}")
    left = cluster.kubectl("get", "secrets,persistentvolumeclaims", f"--namespace={NAMESPACE}", "--output=name").split()
    assert {f"secret/{RELEASE}-api-keys", f"persistentvolumeclaim/data-{RELEASE}-milvus-0"} <= set(left)
    follow(cluster, forget)
    cluster.kubectl("delete", "namespace", NAMESPACE)
    assert "All is well." in follow(cluster, install)


def test_upgraded_and_rolled_back(cluster: Cluster) -> None:
    upgrade, preflight, why, one_alone = blocks("Upgrade and roll back")
    assert "Rollback was a success" in follow(cluster, upgrade)
    follow(cluster, preflight)
    assert f"{RELEASE}-triton" in follow(cluster, why)
    told = follow(cluster, one_alone)
    assert "drained" in told
    assert "uncordoned" in told
    settled(cluster, seconds=180)


def test_keys_are_looked_at(cluster: Cluster) -> None:
    (look,) = blocks("API keys")
    assert "annotated" in follow(cluster, look)


def test_the_queries_that_an_adapter_needs(cluster: Cluster) -> None:
    (queries,) = blocks("Scale on the queue")
    assert follow(cluster, queries).count("query:") == 2


def test_a_container_that_restarts(cluster: Cluster) -> None:
    look, promise = blocks("Triton's container restarts")
    triton = one(cluster, "triton")
    kill(processes(cluster, triton))
    eventually("its restart", 60, lambda: restarts(cluster, triton) == 1)
    assert "Restart Count:" in follow(cluster, look)
    settled(cluster)
    follow(cluster, promise)
    (found,) = (pod for pod in pods(cluster) if pod["metadata"]["name"].startswith(f"{RELEASE}-triton"))
    assert found["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1"
