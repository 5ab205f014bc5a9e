"""Parts are broken under load; what that costs stands in docs/reliability.md.

Everything has two replicas but Redis, Milvus and Prometheus. GENMESH_WRITE_DOCS=1 writes the figures of the
tests that ran into the document.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.kernel import run, within
from deploy.cluster.nodes import CONTROL
from tests.cluster.seen import fired_since, values
from tests.cluster.steady import Load, steady
from tests.cluster.workloads import PODS, kill, one, pods, processes, restarts, settled

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"
STREAMS = ("chat", "rag", "image")
ROWS: list[str] = []
LATE_SECONDS = 3.0
# What streams that were broken cost of the month's budget, by a Prometheus that knows the last minutes only.
BURNS = {"GenmeshAvailabilityBurn1h", "GenmeshAvailabilityBurn6h"}
METHODS = "StreamChat|StreamAnswer|Search|Embed|Encode|StreamGenerateImage"
KINDS = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag", "triton")


@pytest.fixture(scope="module", autouse=True)
def two_of_each(cluster: Cluster) -> Iterator[None]:
    spread = [f"{of}.{setting}" for of in ("defaults", "triton")
              for setting in ("replicas=2", "spreadOver=kubernetes.io/hostname", "spreadStrictly=true")]  # fmt: skip
    # Two cores promise no more to all of them, Milvus and a third Triton while two are replaced.
    spread.append("defaults.resources.requests.cpu=50m")
    cluster.install(settings=spread)
    yield
    cluster.install()
    if os.environ.get("GENMESH_WRITE_DOCS") and ROWS:
        head, _, rest = DOCUMENT.read_text().partition(BEGIN)
        table, _, tail = rest.partition(END)
        # Faults that were not tried this time keep their rows.
        rows = {row.split("|")[1]: row for row in (*table.strip().splitlines(), *ROWS)}
        DOCUMENT.write_text("\n".join([head + BEGIN, *rows.values(), END + tail]))


def told(name: str, load: Load, begun: float, until: float = float("inf")) -> tuple[Counter[tuple[str, str]], float]:
    """Enter what a fault did to calls; the causes of failures and the seconds until the last call that failed."""
    calls = [call for call in load.read() if begun - 1 <= call["at"] < until - 1]
    # A stream of some seconds fails where it is at that time, not where it began.
    failed = [call for call in load.calls if call["error"] and begun <= call["at"] + call["latency"] < until]
    last = max((call["at"] - begun for call in failed), default=0.0)
    usual = usual_latencies(load)
    slow = [call for call in calls if not call["error"] and call["latency"] > usual[call["operation"]] + LATE_SECONDS]
    lag = max((call["at"] + call["latency"] - begun for call in slow), default=0.0)
    causes = Counter((call["operation"], call["error"]) for call in failed)
    with_what = ", ".join(f"{operation} {error} ({n})" for (operation, error), n in causes.most_common()) or "-"
    share = f"{len(failed)} ({100 * len(failed) / len(calls):.1f} %)"
    ends = f"{f'{last:.0f} s' if failed else '-'} | {f'{lag:.0f} s ({len(slow)})' if slow else '-'}"
    ROWS.append(f"| {name} | {len(calls)} | {share} | {with_what} | {ends} |")
    print(ROWS[-1])
    return causes, last


def usual_latencies(load: Load) -> dict[str, float]:
    """What the fastest quarter of each operation's calls took at most: a fault holds up fewer than the others."""
    found: dict[str, list[float]] = {}
    for call in load.calls:
        found.setdefault(call["operation"], []).append(call["latency"])
    return {operation: sorted(latencies)[len(latencies) // 4] for operation, latencies in found.items()}


def all_ready(cluster: Cluster, seconds: float = 120) -> None:
    settled(cluster, PODS + len(KINDS), seconds)


def spread_out(cluster: Cluster) -> None:
    """Give each kind a pod on either worker: what a lost one left beside another does not go back by itself."""
    all_ready(cluster)
    places: dict[str, set[str]] = {}
    last: dict[str, str] = {}
    for pod in pods(cluster):
        kind = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        places.setdefault(kind, set()).add(pod["spec"]["nodeName"])
        last[kind] = pod["metadata"]["name"]
    for kind in KINDS:
        if len(places[kind]) < 2:
            cluster.kubectl("delete", "pod", last[kind], f"--namespace={NAMESPACE}")
    all_ready(cluster, 180)


def keep_prometheus_off(cluster: Cluster, node: str) -> None:
    """What it saw would be lost with the node."""
    found = one(cluster, "prometheus")
    if cluster.get("pod", found)["spec"]["nodeName"] != node:
        return
    cluster.kubectl("cordon", node)
    cluster.kubectl("delete", "pod", found, f"--namespace={NAMESPACE}")
    all_ready(cluster)
    cluster.kubectl("uncordon", node)


def attempts(cluster: Cluster, since: float) -> float:
    """The load's calls that reached a gateway, and what was sent once more behind it."""
    time.sleep(6)  # Prometheus' next look
    window = f"[{math.ceil(time.time() - since)}s]"
    counted = (
        f'genmesh_gateway_requests_total{{method=~"{METHODS}"}}',
        # What services sent again, to one another, to Triton and to Milvus. Clients' are among the gateway's requests.
        '{__name__=~"genmesh_.+_retried_requests_total",__name__!="genmesh_gateway_retried_requests_total"}',
        '{__name__=~"genmesh_.+_(model|store)_retries_total"}',
    )
    return sum(sum(values(cluster, f"sum(increase({one}{window}))").values()) for one in counted)


def test_one_pod_of_each_kind_is_killed(cluster: Cluster, folder: Path) -> None:
    """Unary calls are retried, streams that it had end with UNAVAILABLE, others never notice."""
    all_ready(cluster)
    begun: dict[str, float] = {}
    since = time.time()
    with steady(cluster, folder, after=8) as load:
        for kind in KINDS:
            found = processes(cluster, one(cluster, kind))
            assert found
            begun[kind] = time.time()
            kill(found)
            time.sleep(8)
            all_ready(cluster)
    for kind in KINDS:
        until = min((t for t in begun.values() if t > begun[kind]), default=float("inf"))
        causes, last = told(f"SIGKILL of one {kind} pod of two", load, begun[kind], until)
        assert not [cause for cause in causes if cause[0] not in STREAMS], causes
        assert {error.partition("/")[0] for _, error in causes} <= {"UNAVAILABLE"}, causes
        assert sum(causes.values()) <= 6
        assert last < 5
    assert attempts(cluster, since) < 1.2 * len(load.calls) + 6
    assert fired_since(cluster, min(begun.values())) <= BURNS


@pytest.mark.parametrize("kind", ["redis", "milvus", "prometheus"])
def test_a_pod_without_a_second_is_killed(cluster: Cluster, folder: Path, kind: str) -> None:
    """Calls wait for Milvus, do without Redis, and know nothing of Prometheus."""
    all_ready(cluster)
    found = processes(cluster, one(cluster, kind))
    assert found
    since = time.time()
    with steady(cluster, folder, after=20) as load:
        begun = time.time()
        kill(found)
    causes, last = told(f"SIGKILL of the {kind} pod", load, begun)
    assert {operation for operation, _ in causes} <= ({"search", "rag"} if kind == "milvus" else set()), causes
    assert {error.partition("/")[0] for _, error in causes} <= {"UNAVAILABLE"}, causes
    assert last < 15
    all_ready(cluster)
    if kind != "prometheus":
        assert attempts(cluster, since) < 1.2 * len(load.calls) + 6


@pytest.mark.parametrize("kind", ["gateway", "generation", "triton"])
def test_streams_in_flight_where_a_pod_is_killed(cluster: Cluster, kind: str) -> None:
    """Those that went through the pod end with UNAVAILABLE and a reason; the others never notice."""
    all_ready(cluster)
    # Asked for now: under load kubectl takes longer than the streams may.
    names = [
        p["metadata"]["name"] for p in pods(cluster) if p["metadata"]["labels"]["app.kubernetes.io/component"] == kind
    ]
    of_pods = {name: processes(cluster, name) for name in names}
    before = {name: restarts(cluster, name) for name in names}
    environment = cluster.caller() | {"PYTHONPATH": str(ROOT)}
    command = [*cluster.outside(), sys.executable, "-m", "tests.cluster.streams", "16", "60"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as streaming:
        assert streaming.stdout is not None
        if (how := streaming.stdout.readline().strip()) != "begun":
            pytest.fail(f"{how}: {streaming.stdout.read()}")
        pod = busy(of_pods)
        kill(of_pods[pod])
        ended = Counter(json.loads(streaming.stdout.read()))
    broken = {how: n for how, n in ended.items() if how != "OK"}
    assert broken, "no stream went through it"
    reason = "CONNECTION_LOST" if kind == "gateway" else ".+_UNAVAILABLE"
    assert all(re.fullmatch(f"UNAVAILABLE {reason}", how) for how in broken), ended
    assert ended["OK"] or kind == "gateway", ended  # all streams are on one connection to one gateway
    ROWS.append(
        f"| SIGKILL of one {kind} pod of two, 16 streams in flight | 16 | {sum(broken.values())} "
        f"| {', '.join(f'{how} ({n})' for how, n in broken.items())} | at once | - |"
    )
    print(ROWS[-1])
    # Until the kubelet sees it, the pod is called ready.
    eventually("its restart", 60, lambda: restarts(cluster, pod) > before[pod])
    all_ready(cluster)


def busy(of_pods: dict[str, list[int]]) -> str:
    """The pod whose processes use the processor most just now."""

    def used(pod: str) -> int:
        stats = (Path(f"/proc/{process}/stat").read_text() for process in of_pods[pod])
        return sum(sum(map(int, stat.rpartition(")")[2].split()[11:13])) for stat in stats)

    before = {name: used(name) for name in of_pods}
    time.sleep(0.5)
    return max(of_pods, key=lambda name: used(name) - before[name])


@contextlib.contextmanager
def stopped(cluster: Cluster, program: str) -> Iterator[None]:
    cluster.manage(CONTROL, "stop", program)
    try:
        yield
    finally:
        cluster.manage(CONTROL, "start", program)


@contextlib.contextmanager
def scaled_to_none(cluster: Cluster, workload: str) -> Iterator[None]:
    def scale(replicas: int) -> None:
        cluster.kubectl("scale", workload, f"--replicas={replicas}", f"--namespace={NAMESPACE}")

    scale(0)
    try:
        yield
    finally:
        scale(1)
        cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", "--timeout=90s")


@contextlib.contextmanager
def without_milvus(cluster: Cluster) -> Iterator[None]:
    """It would serve for a minute after it was told to end, so it is killed then."""
    pod = one(cluster, "milvus")
    found = processes(cluster, pod)
    with scaled_to_none(cluster, f"statefulset/{RELEASE}-milvus"):
        time.sleep(1)  # or the kubelet starts it again
        kill(found)
        cluster.kubectl("delete", "pod", pod, "--force", "--grace-period=0", f"--namespace={NAMESPACE}")
        yield
        assert not any(Path(f"/proc/{process}").exists() for process in found)
        assert not [one for one in pods(cluster) if one["metadata"]["name"] == pod]


@contextlib.contextmanager
def hung(cluster: Cluster, component: str) -> Iterator[None]:
    found = processes(cluster, one(cluster, component))
    for process in found:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


@contextlib.contextmanager
def cut_off(cluster: Cluster, node: str) -> Iterator[None]:
    switch = within(cluster.ledger.first("switch"))
    run([*switch, "ip", "link", "set", node, "down"])
    try:
        yield
    finally:
        run([*switch, "ip", "link", "set", node, "up"])


# name: what is done, for how long, what share of the calls may fail, and which may
FAULTS: dict[
    str, tuple[Callable[[Cluster], contextlib.AbstractContextManager[None]], float, float, tuple[str, ...]]
] = {
    "API server gone for 60 s": (lambda c: stopped(c, "kube-apiserver"), 60, 0.0, ()),
    "CoreDNS gone for 30 s": (lambda c: stopped(c, "coredns"), 30, 0.0, ()),
    "Redis gone for 20 s": (lambda c: scaled_to_none(c, f"deployment/{RELEASE}-redis"), 20, 0.0, ()),
    "Milvus gone for 40 s": (without_milvus, 40, 0.3, ("search", "rag")),
    "Triton hung for 25 s, one pod of two": (lambda c: hung(c, "triton"), 25, 0.1, STREAMS),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_part_is_gone_for_a_while(cluster: Cluster, folder: Path, name: str) -> None:
    make, seconds, share, which = FAULTS[name]
    all_ready(cluster)
    since = time.time()
    with steady(cluster, folder, after=15) as load:
        begun = time.time()
        with make(cluster):
            time.sleep(seconds)
    causes, last = told(name, load, begun)
    calls = len(load.calls)
    assert sum(causes.values()) <= share * calls, causes
    assert {operation for operation, _ in causes} <= set(which), causes
    assert last < seconds + 20
    # Those on their way when the load was stopped are no calls of its list.
    assert 0.8 * calls < attempts(cluster, since) < 1.2 * calls + 6
    # A page on a part is for what lasts.
    assert fired_since(cluster, begun) <= BURNS


@contextlib.contextmanager
def killed(cluster: Cluster, node: str) -> Iterator[None]:
    cluster.end_node(node)
    try:
        yield
    finally:
        cluster.start_node(node)


@pytest.mark.parametrize(
    ("name", "make"),
    [("a worker cut off from the network for 40 s", cut_off), ("a worker killed, back after 40 s", killed)],
)
def test_a_worker_is_gone(
    cluster: Cluster, folder: Path, name: str, make: Callable[[Cluster, str], contextlib.AbstractContextManager[None]]
) -> None:
    """The worker without Milvus, whose one replica cannot be elsewhere; the client calls the other's port."""
    spread_out(cluster)
    node = next(p["spec"]["nodeName"] for p in pods(cluster) if p["metadata"]["name"].startswith(f"{RELEASE}-milvus"))
    other = "worker-2" if node == "worker-1" else "worker-1"
    keep_prometheus_off(cluster, other)
    since = time.time()
    with steady(cluster, folder, after=15, node=node) as load:
        begun = time.time()
        with make(cluster, other):
            time.sleep(40)
    causes, last = told(name, load, begun)
    assert {error.partition("/")[0] for _, error in causes} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, causes
    assert last < 60  # pods of a lost node are replaced after 50 s
    assert sum(causes.values()) < 0.35 * len(load.calls), causes  # a client whose one connection led to the lost worker
    all_ready(cluster, 180)
    # A gateway that was lost took the last seconds of its counts along.
    assert 0.5 * len(load.calls) < attempts(cluster, since) < 1.2 * len(load.calls) + 6
    assert fired_since(cluster, begun) <= BURNS


@pytest.mark.timeout(900)
def test_what_lasts_is_told_and_fails_no_call(cluster: Cluster, folder: Path) -> None:
    """A cache that is gone and a pod that does not start, for minutes: the alert of each, and no other."""
    all_ready(cluster)
    rag = f"deployment/{RELEASE}-rag"
    begun = time.time()
    with steady(cluster, folder) as load, scaled_to_none(cluster, f"deployment/{RELEASE}-redis"):
        cluster.kubectl("set", "env", rag, "GENMESH_NO_SUCH_SETTING=1", f"--namespace={NAMESPACE}")
        try:
            wanted = {"GenmeshCacheFailing", "GenmeshPartDown"}
            eventually("the alerts", 480, lambda: wanted <= fired_since(cluster, begun))
        finally:
            cluster.kubectl("rollout", "undo", rag, f"--namespace={NAMESPACE}")
    assert fired_since(cluster, begun) - BURNS == wanted  # no call failed now: what burns is of the tests before
    assert not load.causes()
    assert attempts(cluster, begun) < 1.2 * len(load.calls) + 6
