"""Calls, not connections, are spread; prompts find the replica that has seen their beginning."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from tests.cluster.seen import gained, values
from tests.cluster.steady import steady

CALLS = "sum by (instance) (genmesh_tokenization_requests_total)"
EMBEDDER = 'sum by (instance) (nv_inference_request_success{model="embedder"})'
HITS, ASKED = (f"sum(genmesh_generator_prefix_cache_{what}_tokens_total)" for what in ("hit", "queried"))


def scale(cluster: Cluster, name: str, replicas: int) -> None:
    """As many are ready."""
    workload = f"{RELEASE}-{name}"
    cluster.kubectl("scale", f"deployment/{workload}", f"--replicas={replicas}", f"--namespace={NAMESPACE}")
    eventually(
        f"{replicas} replicas",
        150,
        lambda: cluster.get("deployment", workload)["status"].get("readyReplicas") == replicas,
    )


@pytest.fixture(scope="module", autouse=True)
def one_again(cluster: Cluster) -> Iterator[None]:
    yield
    for name in ("tokenization", "triton"):
        scale(cluster, name, 1)


def shares(grown: dict[str, float]) -> dict[str, float]:
    """Each one's calls as a part of an even share."""
    grown = {instance: calls for instance, calls in grown.items() if calls}
    even = sum(grown.values()) / len(grown)
    return {instance: calls / even for instance, calls in grown.items()}


def test_three_replicas_of_a_service_get_even_shares_and_a_fourth_gets_its_own(cluster: Cluster, folder: Path) -> None:
    scale(cluster, "tokenization", 3)
    time.sleep(12)  # their connections, and Prometheus' next look
    with steady(cluster, folder, scenario="spread", after=0) as load:
        begun = time.time()
        time.sleep(40)  # in half of it chance alone gives a share of 1.2 now and then
        found = shares(gained(cluster, CALLS, begun, time.time()))
        assert len(found) == 3
        assert all(0.8 <= share <= 1.2 for share in found.values()), found
        old = set(found)
        scale(cluster, "tokenization", 4)
        time.sleep(15)
        begun = time.time()
        time.sleep(25)
        found = shares(gained(cluster, CALLS, begun, time.time()))
        (new,) = set(found) - old
        assert found[new] >= 0.7, found
    assert not load.causes()


def test_three_replicas_of_triton(cluster: Cluster, folder: Path) -> None:
    def hit_rate(seed: str) -> float:
        time.sleep(6)
        before = [values(cluster, query)[""] for query in (HITS, ASKED)]
        environment = cluster.caller()
        subprocess.run(
            [*cluster.outside(), sys.executable, "-m", "tests.cluster.chats", "18", "5", seed],
            env=environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True,
        )  # fmt: skip
        time.sleep(6)
        hits, asked = (values(cluster, q)[""] - b for q, b in zip((HITS, ASKED), before, strict=True))
        return hits / asked

    alone = hit_rate("alone")
    with steady(cluster, folder, scenario="spread", after=0) as load:
        scale(cluster, "triton", 3)
        time.sleep(15)
        begun = time.time()
        time.sleep(40)
        found = shares(gained(cluster, EMBEDDER, begun, time.time()))
        assert len(found) == 3
        assert all(0.8 <= share <= 1.2 for share in found.values()), found
    assert not load.causes()
    together = hit_rate("together")
    print(f"prefix-cache hit rate: one replica {alone:.3f}, three {together:.3f}")
    assert alone > 0.4
    assert together >= 0.9 * alone
