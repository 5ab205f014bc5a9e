"""Parts are broken under load; what that costs stands in docs/reliability.md.

Everything has two replicas but Redis, Milvus and Prometheus. GENMESH_WRITE_DOCS=1 writes the figures into the document.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from tests.cluster.seen import values
from tests.cluster.steady import Load, steady
from tests.cluster.test_1_install import pods

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"
STREAMS = ("chat", "rag", "image")
ROWS: list[str] = []
KINDS = ("gateway", "tokenization", "embedding", "vector-search", "generation", "diffusion", "rag", "triton")


@pytest.fixture(scope="module", autouse=True)
def two_of_each(cluster: Cluster) -> Iterator[None]:
    spread = [f"{of}.{setting}" for of in ("defaults", "triton")
              for setting in ("replicas=2", "spreadOver=kubernetes.io/hostname", "spreadStrictly=true")]  # fmt: skip
    cluster.install(settings=spread)
    yield
    if os.environ.get("GENMESH_WRITE_DOCS") and ROWS:
        text = DOCUMENT.read_text()
        head, _, rest = text.partition(BEGIN)
        _, _, tail = rest.partition(END)
        table = ["| fault | calls | failed | with | back to normal after |", "| --- | --- | --- | --- | --- |", *ROWS]
        DOCUMENT.write_text("\n".join([head + BEGIN, *table, END + tail]))


def told(name: str, load: Load, begun: float, until: float = float("inf")) -> tuple[Counter[tuple[str, str]], float]:
    """Enter what a fault did to calls; the causes of failures and the seconds until the last call that failed."""
    calls = [call for call in load.read() if begun - 1 <= call["at"] < until - 1]
    failed = [call for call in calls if call["error"]]
    last = max((call["at"] - begun for call in failed), default=0.0)
    causes = Counter((call["operation"], call["error"]) for call in failed)
    with_what = ", ".join(f"{operation} {error} ({n})" for (operation, error), n in causes.most_common()) or "-"
    share = f"{len(failed)} ({100 * len(failed) / len(calls):.1f} %)"
    ROWS.append(f"| {name} | {len(calls)} | {share} | {with_what} | {f'{last:.0f} s' if failed else 'at once'} |")
    print(ROWS[-1])
    return causes, last


def processes(cluster: Cluster, pod: str) -> list[int]:
    """The processes of a pod's container, as seen from here."""
    uid = cluster.get("pod", pod)["metadata"]["uid"]
    found = []
    for process in sorted(cluster.ledger.processes()):
        with contextlib.suppress(FileNotFoundError):
            if (
                uid in Path(f"/proc/{process}/cgroup").read_text()
                and "pause" not in Path(f"/proc/{process}/cmdline").read_text()
            ):
                found.append(process)
    return found


def kill(found: list[int]) -> None:
    for process in found:
        with contextlib.suppress(ProcessLookupError):  # it ended with its parent
            os.kill(process, signal.SIGKILL)


def one(cluster: Cluster, component: str) -> str:
    ready = [p for p in pods(cluster) if p["metadata"]["labels"]["app.kubernetes.io/component"] == component]
    return str(ready[0]["metadata"]["name"])


def all_ready(cluster: Cluster, seconds: float = 120) -> None:
    def ready() -> bool:
        found = [p for p in pods(cluster) if "deletionTimestamp" not in p["metadata"]]
        conditions = [{c["type"]: c["status"] for c in p["status"].get("conditions", ())} for p in found]
        return len(found) == 19 and all(c.get("Ready") == "True" for c in conditions)

    eventually("every pod", seconds, ready)


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


def attempts(cluster: Cluster) -> float:
    """Calls that reached the gateway."""
    return sum(values(cluster, "genmesh_gateway_requests_total").values())


def test_one_pod_of_each_kind_is_killed(cluster: Cluster, folder: Path) -> None:
    """Unary calls are retried, streams that it had end with UNAVAILABLE, others never notice."""
    all_ready(cluster)
    begun: dict[str, float] = {}
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


@pytest.mark.parametrize("kind", ["gateway", "generation", "triton"])
def test_streams_in_flight_where_a_pod_is_killed(cluster: Cluster, kind: str) -> None:
    """Those that went through the pod end with UNAVAILABLE and a reason; the others never notice."""
    all_ready(cluster)
    environment = cluster.caller() | {"PYTHONPATH": str(ROOT)}
    command = [*cluster.outside(), sys.executable, "-m", "tests.cluster.streams", "16", "1800"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as streaming:
        assert streaming.stdout is not None
        assert streaming.stdout.readline().strip() == "begun"
        kill(processes(cluster, busy(cluster, kind)))
        ended = Counter(json.loads(streaming.stdout.read()))
    broken = {how: n for how, n in ended.items() if how != "OK"}
    assert broken, "no stream went through it"
    assert all(how.startswith("UNAVAILABLE ") for how in broken), ended
    if kind != "gateway":  # that one leaves nobody who could tell a reason, or go on
        assert "UNAVAILABLE " not in broken, ended
        assert ended["OK"], ended
    ROWS.append(
        f"| SIGKILL of one {kind} pod of two, 16 streams in flight | 16 | {sum(broken.values())} "
        f"| {', '.join(f'{how} ({n})' for how, n in broken.items())} | at once |"
    )
    print(ROWS[-1])


def busy(cluster: Cluster, component: str) -> str:
    """The pod whose processes use the processor most just now."""

    def used(pod: str) -> int:
        return sum(
            sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))
            for process in processes(cluster, pod)
        )

    names = [
        p["metadata"]["name"]
        for p in pods(cluster)
        if p["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    before = {name: used(name) for name in names}
    time.sleep(0.5)
    return max(names, key=lambda name: used(name) - before[name])


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
    "Milvus gone for 15 s": (lambda c: scaled_to_none(c, f"statefulset/{RELEASE}-milvus"), 15, 0.05, ("search", "rag")),
    "Triton hung for 25 s, one pod of two": (lambda c: hung(c, "triton"), 25, 0.1, STREAMS),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_part_is_gone_for_a_while(cluster: Cluster, folder: Path, name: str) -> None:
    make, seconds, share, which = FAULTS[name]
    all_ready(cluster)
    before = attempts(cluster)
    with steady(cluster, folder, after=15) as load:
        begun = time.time()
        with make(cluster):
            time.sleep(seconds)
    causes, last = told(name, load, begun)
    calls = len(load.calls)
    assert sum(causes.values()) <= share * calls, causes
    assert {operation for operation, _ in causes} <= set(which), causes
    assert last < seconds + 20
    time.sleep(6)
    # Health checks and the laying out of the load's data are among them; retries would show.
    assert attempts(cluster) - before < 1.2 * calls + 60


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
    before = attempts(cluster)
    with steady(cluster, folder, after=15, node=node) as load:
        begun = time.time()
        with make(cluster, other):
            time.sleep(40)
    causes, last = told(name, load, begun)
    assert {error.partition("/")[0] for _, error in causes} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, causes
    assert last < 60  # pods of a lost node are replaced after 50 s
    all_ready(cluster, 180)
    assert attempts(cluster) - before < 1.2 * len(load.calls) + 60
