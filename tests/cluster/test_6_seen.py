"""What Prometheus in the cluster shows of real calls, and which alerts fire."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.observability import dashboards, rules
from tests.cluster.seen import FIRING, fired, fired_since, numbers, values
from tests.cluster.steady import steady


@pytest.fixture(scope="module")
def used(cluster: Cluster) -> Cluster:
    """The cluster after a minute of calls of every kind."""
    cluster.install()
    # It begins anew, so that nothing of what other tests broke fires.
    rollout = ("rollout", "restart", f"deployment/{RELEASE}-prometheus", f"--namespace={NAMESPACE}")
    cluster.kubectl(*rollout)
    cluster.kubectl("rollout", "status", *rollout[2:], "--timeout=60s")
    command = [*cluster.outside(), sys.executable, "-m", "tests.everything", "60"]
    subprocess.run(command, env=cluster.caller() | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True)
    return cluster


def test_every_panel_every_record_and_every_signal_of_an_alert_has_data(used: Cluster) -> None:
    wanted = {
        curve.expr for _, (_, graphs) in dashboards.DASHBOARDS.items() for graph in graphs for curve in graph.curves
    }
    wanted |= {record.name for record in rules.records()}
    wanted |= {left for alert in rules.alerts() for left, _ in alert.signals}

    def empty() -> list[str]:
        asked = sorted(wanted)
        found = numbers(used, [expr.replace("$__rate_interval", "1m") for expr in asked])
        return [e for e, values in zip(asked, found, strict=True) if not values or all(map(math.isnan, values))]

    # A rule is evaluated every quarter of a minute.
    until = time.monotonic() + 40
    while (left := empty()) and time.monotonic() < until:
        time.sleep(3)
    assert not left


def test_the_alert_of_a_part_that_is_gone_fires_and_no_other(used: Cluster, folder: Path) -> None:
    """Nobody can answer for some minutes: the part's own alert, and those on the share of failed calls."""
    begun = time.time()
    assert not fired(used, FIRING)
    deployment = f"deployment/{RELEASE}-tokenization"
    with steady(used, folder):
        used.kubectl("scale", deployment, "--replicas=0", f"--namespace={NAMESPACE}")
        try:
            eventually("the alert", 240, lambda: "GenmeshUpstreamNotServing" in values(used, FIRING, label="alertname"))
            time.sleep(20)
        finally:
            used.kubectl("scale", deployment, "--replicas=1", f"--namespace={NAMESPACE}")
            used.kubectl("rollout", "status", deployment, f"--namespace={NAMESPACE}", "--timeout=90s")
    found = fired_since(used, begun)
    assert found <= {"GenmeshUpstreamNotServing", "GenmeshAvailabilityBurn1h", "GenmeshAvailabilityBurn6h"}, found
