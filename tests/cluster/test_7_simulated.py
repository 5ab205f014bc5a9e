"""A thousand nodes that kwok simulates: the chart with GPU values, at 500 replicas, upgraded with no GPU to spare.

API server, controllers and scheduler are real; nodes and pods only say that they run. GENMESH_WRITE_DOCS=1 keeps the
figures for docs/scale.md.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.cluster.cluster import CHART, NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.kernel import within
from deploy.cluster.nodes import CONTROL

pytestmark = pytest.mark.timeout(2400)
NODES, GPUS, REPLICAS = 1000, 500, 500
BUDGET = REPLICAS * 9 // 10
FIGURES = ROOT / "docs" / "figures" / "simulated.json"
SETTINGS = {
    "triton.replicas": REPLICAS, "triton.minAvailable": "90%", "services.generation.replicas": REPLICAS,
    "services.generation.minAvailable": "90%", "redis.enabled": False, "redis.url": "redis://redis.state.svc:6379",
    "milvus.enabled": False, "milvus.url": "http://milvus.state.svc:19530", "prometheus.enabled": False,
}  # fmt: skip
# A node has room for one Triton (4 cores), whatever else it has.
NODE_ROOM = {"cpu": "6", "memory": "48Gi", "pods": "16"}


def node(number: int) -> dict[str, Any]:
    """A simulated node; the first ``GPUS`` have one GPU each, and nothing but what asks for it runs there."""
    gpu = number < GPUS
    room = NODE_ROOM | ({"nvidia.com/gpu": "1"} if gpu else {})
    name = f"simulated-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": f"zone-{number % 3}",
                **({"nvidia.com/gpu.present": "true"} if gpu else {}),
            },
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}] if gpu else []},
        "status": {"allocatable": room, "capacity": room},
    }


@pytest.fixture(scope="module")
def simulated() -> Iterator[Cluster]:
    """A control plane with a thousand nodes that are simulated."""
    # The heartbeats of a thousand nodes are most of what the API server does, so they come seldom.
    found = Cluster(
        ROOT / ".state" / "simulated", ROOT / ".state" / "tools", nodes=[CONTROL], metrics=False, lost_after=300
    )
    try:
        found.start(lambda text: None)
        found.kubectl("taint", "node", CONTROL, "control=true:NoSchedule")
        stages = found.state / "stages.yaml"
        parts = sorted((found.tools / "kwok" / "stages").glob("*.yaml"))
        stages.write_text("\n---\n".join(part.read_text() for part in parts))
        kwok = [
            str(found.tools / "kwok" / "bin" / "kwok"), f"--kubeconfig={found.kubeconfig}", "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-lease-duration-seconds=240",
            f"--config={stages}",
        ]  # fmt: skip
        found.ledger.start("kwok", [*within(found.ledger.first(f"{CONTROL}/node")), *kwok], found.state / "kwok.log")
        nodes = {"apiVersion": "v1", "kind": "List", "items": [node(number) for number in range(NODES)]}
        found.kubectl("create", "--filename=-", stdin=json.dumps(nodes))
        eventually("the simulated nodes", 120, lambda: ready_nodes(found) == NODES + 1)
        yield found
    finally:
        found.stop()


def ready_nodes(cluster: Cluster) -> int:
    listed = cluster.kubectl("get", "nodes", "--no-headers")
    return sum(line.split()[1] == "Ready" for line in listed.splitlines())


def measured(cluster: Cluster) -> dict[str, float]:
    """Events about endpoints that the API server sent to its watchers: how many, how many bytes, to how many."""
    text = cluster.kubectl("get", "--raw", "/metrics")

    def total(pattern: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(pattern, line))

    return {
        "events": total(r"apiserver_watch_events_sizes_count\{.*(EndpointSlice|endpointslices)"),
        "bytes": total(r"apiserver_watch_events_sizes_sum\{.*(EndpointSlice|endpointslices)"),
        "watchers": total(r'apiserver_longrunning_requests\{.*resource="endpointslices".*verb="WATCH"'),
    }


def upgrade(cluster: Cluster, **more: object) -> None:
    given = [f"--set={name}={value}" for name, value in (SETTINGS | more).items()]
    cluster.helm("upgrade", "--install", RELEASE, str(CHART), f"--values={CHART / 'values-gpu.yaml'}", *given)


def followed(cluster: Cluster, seconds: float) -> dict[str, int]:
    """Follow both big deployments until they are rolled out; the fewest pods of each that were ready, and the seconds."""
    least, begun = {"triton": REPLICAS, "generation": REPLICAS}, time.monotonic()

    def done() -> bool:
        finished = True
        for name in least:
            found = cluster.get("deployment", f"{RELEASE}-{name}")
            status, wanted = found["status"], found["spec"]["replicas"]
            least[name] = min(least[name], status.get("readyReplicas", 0))
            finished &= (
                status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("updatedReplicas") == status.get("replicas") == wanted
                and status.get("availableReplicas") == wanted
            )
        return finished

    eventually("the deployments", seconds, done)
    return least | {"seconds": round(time.monotonic() - begun)}


def test_five_hundred_replicas_with_no_gpu_to_spare(simulated: Cluster) -> None:
    simulated.kubectl("create", "namespace", NAMESPACE)
    begun = time.monotonic()
    upgrade(simulated)
    eventually(
        "500 pods of each",
        300,
        lambda: all(
            simulated.get("deployment", f"{RELEASE}-{name}")["status"].get("availableReplicas") == REPLICAS
            for name in ("triton", "generation")
        ),
    )
    installed = round(time.monotonic() - begun)
    slices = {}
    for name in ("triton", "generation"):
        selector = f"--selector=kubernetes.io/service-name={RELEASE}-{name}"
        slices[name] = [len(found["endpoints"]) for found in simulated.get("endpointslices", selector)["items"]]
    assert all(sum(sizes) == REPLICAS for sizes in slices.values()), slices
    budgets = {b["metadata"]["name"]: b["status"] for b in simulated.get("poddisruptionbudgets")["items"]}
    assert budgets[f"{RELEASE}-triton"]["desiredHealthy"] == BUDGET
    before = measured(simulated)
    upgrade(simulated, logLevel="WARNING", **{"triton.sharedMemory": "5Gi"})
    least = followed(simulated, 1500)
    sent = {name: value - before[name] for name, value in measured(simulated).items()}
    assert least["triton"] >= BUDGET
    assert least["generation"] >= REPLICAS  # services have room for new pods beside the old ones
    watchers = before["watchers"]
    found = {
        "nodes": NODES, "gpus": GPUS, "replicas": REPLICAS, "install_seconds": installed,
        "available_after": simulated.get("deployment", f"{RELEASE}-triton")["spec"]["minReadySeconds"],
        "upgrade_seconds": least["seconds"], "least_ready": {name: least[name] for name in ("triton", "generation")},
        "budget": BUDGET, "slices": slices, "watchers": watchers,
        "watch_events": sent["events"] / watchers, "watch_bytes": sent["bytes"] / watchers,
    }  # fmt: skip
    print(json.dumps(found))
    assert sent["events"] > 0
    if os.environ.get("GENMESH_WRITE_DOCS"):
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(found, indent=1) + "\n")
