"""The chart on a real Kubernetes: installed, proven, and restarted under light load.

Only what timing cannot change is asserted: no duration, no rate.
"""

from __future__ import annotations

from collections import Counter

from tests.cluster.reach import ALLOWED
from tests.smoke import watched
from tests.smoke.drive import RESTARTED, SERVICES, Seen
from tests.smoke.load import KINDS

# What no change to a cluster may cause: a fault of ours rather than of the moment.
FAULTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


def test_the_chart_proves_itself(seen: Seen) -> None:
    assert "Phase:          Succeeded" in seen.helm_test
    assert "answer: " in seen.helm_test
    assert "All is well." in seen.helm_test


def test_a_stray_pod_reaches_the_gateway_and_nothing_else(seen: Seen) -> None:
    assert len(seen.stray) == 23
    assert {place for place, outcomes in seen.stray.items() if "open" in outcomes} == ALLOWED, seen.stray
    assert all(seen.stray[place] == {"open"} for place in ALLOWED), seen.stray


def test_a_privileged_pod_is_refused(seen: Seen) -> None:
    assert 'violates PodSecurity "restricted:latest"' in seen.refusal


def test_every_pod_was_replaced(seen: Seen) -> None:
    assert Counter(pod.component for pod in seen.old) == {"gateway": 2, "generation": 2, "triton": 1}
    assert Counter(pod.component for pod in seen.new) == Counter(pod.component for pod in seen.old)
    assert not seen.old_uids & {pod.uid for pod in seen.new}


def test_no_sample_has_fewer_ready_pods_than_the_budget(seen: Seen) -> None:
    samples = watched.ready(seen.changes, seen.old_uids)
    lowest = {component: min(sample[component] for sample in samples) for component in RESTARTED}
    print(f"{len(samples)} samples, ready at least: {lowest}")
    assert seen.budgets == dict.fromkeys(SERVICES, 1)
    assert all(lowest[component] >= budget for component, budget in seen.budgets.items()), lowest


def test_no_pod_was_told_to_end_before_a_new_one_was_ready(seen: Seen) -> None:
    """Triton's one replica has no budget; this is what the chart promises for it."""
    assert not watched.too_early(seen.changes, seen.old_uids)


def test_old_pods_said_not_serving_before_they_ended(seen: Seen) -> None:
    """On a stream of their health that was open all the time."""
    drained = {event["pod"] for event in seen.health if event.get("drains")}
    assert drained == {pod.name for pod in seen.old if pod.component in SERVICES}, seen.health


def test_the_old_triton_left_its_service_before_it_ended(seen: Seen) -> None:
    """Triton cannot tell its callers; it leaves DNS and serves on for a while (the chart's preStop)."""
    ended = next(pod.revision for pod in seen.changes if pod.component == "triton" and pod.gone)
    assert seen.triton_left is not None
    assert seen.triton_left < ended


def test_the_gateways_counted_no_faults(seen: Seen) -> None:
    """Of all calls: old gateways were held open until their last call was counted."""
    gateways = {pod.name for pod in (*seen.old, *seen.new) if pod.component == "gateway"}
    assert seen.counted.keys() == gateways, seen.health
    total = sum(seen.counted.values(), Counter[str]())
    print(f"the gateways counted {dict(total)}")
    assert not FAULTS & total.keys(), seen.counted
    assert total["OK"] >= sum(call["status"] == "OK" for call in seen.calls), seen.counted


def test_no_unary_call_failed(seen: Seen) -> None:
    print(Counter((call["kind"], call["status"]) for call in seen.calls))
    assert {call["kind"] for call in seen.calls if call["status"] == "OK"} == KINDS.keys()
    assert not [call for call in seen.calls if not call["stream"] and call["status"] != "OK"]


def test_no_stream_ended_with_a_fault(seen: Seen) -> None:
    """One that outlived its pod's drain may break."""
    assert not [call for call in seen.calls if call["stream"] and call["status"] in FAULTS]
