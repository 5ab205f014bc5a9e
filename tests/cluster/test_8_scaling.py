"""Triton scales on its queue and on TTFT, services on their processors; scaling in breaks no stream."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.nodes import CLIENT
from tests.cluster.external_metrics import objects
from tests.cluster.steady import steady

pytestmark = pytest.mark.timeout(900)
TRITON = f"{RELEASE}-triton"
# Seconds. Two cores carry all of it, so the objective is twice what two replicas keep while nothing is queued: grounded
# answers have their first token after 1 to 2 s on slow ones, and an autoscaler leaves where the rest can be under it.
OBJECTIVE = 6
SETTINGS = [
    "triton.autoscaling.enabled=true", "triton.autoscaling.maxReplicas=2", f"triton.autoscaling.ttftSeconds={OBJECTIVE}",
    "services.tokenization.autoscaling.enabled=true", "services.tokenization.autoscaling.maxReplicas=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def scaled(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The chart with autoscaling, and an API that serves the queries of the chart's own ScaledObject."""
    folder = tmp_path_factory.mktemp("adapter")
    certificate = trustme.CA().issue_cert(CLIENT)
    certificate.cert_chain_pems[0].write_to_path(folder / "server.crt")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    cluster.install(settings=SETTINGS)
    chart = [
        str(ROOT / "deploy" / "helm" / "genmesh"),
        "--set=autoscaler=keda",
        "--set=triton.autoscaling.enabled=true",
    ]
    rendered = cluster.helm("template", RELEASE, *chart, "--show-only=templates/triton.yaml")
    triggers = [line.partition("query: ")[2] for line in rendered.splitlines() if "query: " in line]
    waiting, ttft = (json.loads(query) for query in triggers)
    queries = {"genmesh_generator_waiting_requests": waiting, "genmesh_gateway_ttft_seconds_p95": ttft}
    command = [*cluster.outside(), sys.executable, "-m", "tests.cluster.external_metrics"]
    adapter = subprocess.Popen(
        [*command, str(folder / "server.crt"), str(folder / "server.key")], env=cluster.environment(), cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert adapter.stdin is not None
        assert adapter.stdout is not None
        adapter.stdin.write(json.dumps(queries))
        adapter.stdin.close()
        assert adapter.stdout.readline().strip() == "begun"
        cluster.kubectl("apply", "--filename=-", stdin="\n---\n".join(json.dumps(one) for one in objects()))
        yield cluster
    finally:
        os.killpg(adapter.pid, signal.SIGTERM)  # kubectl's forwarding too
        adapter.wait(10)
        cluster.kubectl(
            "delete", "--ignore-not-found", "--filename=-", stdin="\n---\n".join(map(json.dumps, objects()))
        )
        cluster.install()


def replicas(cluster: Cluster, name: str = TRITON) -> tuple[int, int]:
    """Wanted, and ready."""
    found = cluster.get("deployment", name)
    return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)


def p95(found: list[float]) -> float:
    return statistics.quantiles(found, n=20, method="inclusive")[-1]


def test_autoscalers_see_their_metrics(scaled: Cluster) -> None:
    """The queue and TTFT of Triton's, the processors of a service's."""

    def active() -> bool:
        found = {one["metadata"]["name"]: one["status"] for one in scaled.get("horizontalpodautoscalers")["items"]}
        conditions = {
            name: {c["type"]: c["status"] for c in status.get("conditions", ())} for name, status in found.items()
        }
        return len(found) == 2 and all(c.get("ScalingActive") == "True" for c in conditions.values())

    assert eventually("metrics of both", 90, active)


def test_a_burst_adds_a_replica_and_its_end_takes_it_away(scaled: Cluster, folder: Path) -> None:
    """The burst goes on until what it queued at the first replica is through, and new chats do not wait."""
    assert replicas(scaled)[0] == 1
    with steady(scaled, folder / "burst", scenario="burst", after=0) as burst:
        begun = time.monotonic()
        eventually("a second replica", 60, lambda: replicas(scaled)[0] == 2)
        wanted = time.monotonic() - begun
        eventually("it to be ready", 60, lambda: replicas(scaled)[1] == 2)
        ready, there = time.monotonic() - begun, time.time()
        time.sleep(120)
    assert not burst.causes()
    alone, together = (
        [call["ttft"] for call in burst.calls if since <= call["at"] < until]
        for since, until in ((0.0, there), (there + 40, float("inf")))
    )
    print(
        f"TTFT p95 of {len(alone)} chats {p95(alone):.1f} s, with two replicas of {len(together)} {p95(together):.1f} s"
    )
    assert len(together) >= 40
    assert p95(together) < min(OBJECTIVE, p95(alone))
    with steady(scaled, folder / "after", rate=1, after=5) as load:
        eventually("the replica to go", 300, lambda: replicas(scaled) == (1, 1))
        gone = time.monotonic() - begun
        time.sleep(15)
    print(f"wanted after {wanted:.0f} s, ready after {ready:.0f} s, gone after {gone:.0f} s")
    assert ready <= 60
    assert not load.causes()


def test_a_service_scales_on_its_processor(scaled: Cluster, folder: Path) -> None:
    tokenization = f"{RELEASE}-tokenization"
    assert replicas(scaled, tokenization) == (1, 1)
    with steady(scaled, folder, scenario="tokens", after=0) as load:
        eventually("a second replica", 60, lambda: replicas(scaled, tokenization)[0] == 2)
        eventually("it to be ready", 60, lambda: replicas(scaled, tokenization)[1] == 2)
    assert not load.causes()
    with steady(scaled, folder, rate=1, after=5) as load:
        eventually("the replica to go", 300, lambda: replicas(scaled, tokenization) == (1, 1))
    assert not load.causes()


def test_turned_off_it_leaves_nothing(scaled: Cluster) -> None:
    """An autoscaler that is turned off gives the number of replicas back to the chart."""
    scaled.install()
    assert not scaled.get("horizontalpodautoscalers", f"--namespace={NAMESPACE}")["items"]
    eventually("one replica", 60, lambda: replicas(scaled) == (1, 1))
