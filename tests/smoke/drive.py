"""One run of the smoke test, from nothing to a cluster that is taken away: it does and sees, and judges nothing.

The tests judge what it saw. What fails here is a step that could not be done, or a wait that expired.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.cluster.cluster import NAMESPACE, RELEASE, ROOT, Cluster, eventually
from deploy.cluster.nodes import CONTROL, WORKERS
from tests.cluster.reach import reached, refusal
from tests.cluster.steady import logs_kept
from tests.cluster.workloads import pods
from tests.smoke import watched
from tests.smoke.load import KINDS

STATE = ROOT / ".state" / "smoke"
VALUES = Path(__file__).parent / "values.yaml"
RESTARTED = ("gateway", "generation", "triton")
SERVICES = ("gateway", "generation")  # those that say NOT_SERVING
# Seconds after which a wait counts as a hang. Nothing is judged by them.
PATIENCE = 600


@dataclass
class Seen:
    """What one run saw."""

    helm_test: str = ""
    stray: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # component and port -> what became of it
    refusal: str = ""  # what the API said to a privileged pod
    budgets: dict[str, int] = field(default_factory=dict)  # component -> ready pods that a disruption has to leave
    old: list[watched.Pod] = field(default_factory=list)  # what was to be replaced
    new: list[watched.Pod] = field(default_factory=list)  # what stood there afterwards
    changes: list[watched.Pod] = field(default_factory=list)  # of all these pods, in order
    triton_left: int | None = None  # at which revision the old Triton left its service
    health: list[dict[str, Any]] = field(default_factory=list)  # events of tests/smoke/health.py
    counted: dict[str, Counter[str]] = field(default_factory=dict)  # gateway -> its calls by status
    calls: list[dict[str, Any]] = field(default_factory=list)  # what tests/smoke/load.py saw

    @property
    def old_uids(self) -> set[str]:
        return {pod.uid for pod in self.old}


class Program:
    """A command that runs beside the cluster, what it prints in a file; it ends with the ``with``."""

    def __init__(self, cluster: Cluster, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.file, self.errors = cluster.state / "seen" / f"{name}.out", cluster.state / "seen" / f"{name}.err"
        self._command, self._environment = command, environment

    def __enter__(self) -> Program:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=output, stderr=errors
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """End its standard input, and wait until it ends by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(PATIENCE):
            raise RuntimeError(f"{self.file.stem} failed: {self.errors.read_text()[-2000:]}")

    @property
    def text(self) -> str:
        if self.process.poll():
            raise RuntimeError(f"{self.file.stem} ended: {self.errors.read_text()[-2000:]}")
        return self.file.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return list(watched.objects(self.text))


def watch(cluster: Cluster, kind: str, selector: str) -> Program:
    command = [
        *cluster.outside(), "kubectl", "get", kind, f"--namespace={NAMESPACE}", f"--selector={selector}", "--watch",
        "--output-watch-events", "--output=json",
    ]  # fmt: skip
    return Program(cluster, kind, command, cluster.environment())


def health(cluster: Cluster, name: str, arguments: list[str]) -> Program:
    command = [*cluster.beside(WORKERS[0]), sys.executable, "-m", "tests.smoke.health", *arguments]
    return Program(cluster, name, command, cluster.environment())


def restarted(cluster: Cluster) -> list[watched.Pod]:
    """The pods of what is restarted, less those that end."""
    return [found for found in map(watched.pod, pods(cluster)) if found.component in RESTARTED]


def addresses(found: list[watched.Pod], *components: str) -> list[str]:
    return [f"{pod.name}={pod.address}" for pod in found if pod.component in components]


def budgets(cluster: Cluster) -> dict[str, int]:
    """Of each component that has a disruption budget: the ready pods that it wants; none until all are computed."""
    found = cluster.get("poddisruptionbudgets")["items"]
    if any(one.get("status", {}).get("observedGeneration") != one["metadata"]["generation"] for one in found):
        return {}
    return {
        one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: one["status"]["desiredHealthy"]
        for one in found
    }


def helm_test(cluster: Cluster) -> str:
    """What `helm test` prints; if it fails, the exception has what its pod printed."""
    try:
        return cluster.helm("test", RELEASE, "--logs", f"--timeout={PATIENCE}s")
    except RuntimeError as failure:
        logs = cluster.kubectl("logs", f"--namespace={NAMESPACE}", f"{RELEASE}-test")
        raise RuntimeError(f"{failure}\n{logs}") from None


def answered(calls: list[dict[str, Any]]) -> Counter[str]:
    """How many calls of each kind were answered."""
    return Counter(call["kind"] for call in calls if call["status"] == "OK")


def every_kind_again(load: Program) -> None:
    """Wait until calls of each kind were answered from now on."""
    before = answered(load.lines)
    eventually("answers to each kind of call", PATIENCE, lambda: len(answered(load.lines) - before) == len(KINDS))


def restart(cluster: Cluster, seen: Seen, say: Callable[[str], None]) -> None:
    """Restart gateway, generation and Triton while calls come in."""
    seen.budgets = eventually("the disruption budgets", PATIENCE, lambda: budgets(cluster))
    seen.old = eventually("the pods", PATIENCE, lambda: restarted(cluster))
    triton = next(pod.address for pod in seen.old if pod.component == "triton")
    components = f"app.kubernetes.io/component in ({','.join(RESTARTED)})"
    endpoints = f"kubernetes.io/service-name={RELEASE}-triton"
    command = [*cluster.outside(), sys.executable, "-m", "tests.smoke.load"]
    load = Program(cluster, "load", command, cluster.caller())
    with (
        watch(cluster, "pods", components) as changing,
        watch(cluster, "endpointslices", endpoints) as serving,
        health(cluster, "health", addresses(seen.old, *SERVICES)) as following,
        load,
    ):
        watching = {pod.name for pod in seen.old if pod.component in SERVICES}
        eventually(
            "the health of old pods",
            PATIENCE,
            lambda: {e["pod"] for e in following.lines if e.get("health") == "SERVING"} == watching,
        )
        eventually("the list of pods", PATIENCE, lambda: watched.ready(watched.changes(changing.text), seen.old_uids))
        eventually("the endpoints", PATIENCE, lambda: triton in serving.text)
        every_kind_again(load)
        say("the restart")
        workloads = [f"deployment/{RELEASE}-{name}" for name in RESTARTED]
        cluster.kubectl("rollout", "restart", *workloads, f"--namespace={NAMESPACE}")
        for workload in workloads:
            cluster.kubectl("rollout", "status", workload, f"--namespace={NAMESPACE}", f"--timeout={PATIENCE}s")
        say("the end of the old pods")
        eventually(
            "the end of the old pods",
            PATIENCE,
            lambda: seen.old_uids <= watched.gone(watched.changes(changing.text)),
        )
        every_kind_again(load)
        load.finish()
        following.finish()
        seen.calls, seen.health = load.lines, following.lines
        seen.changes = watched.changes(changing.text)
        seen.triton_left = watched.left(serving.text, triton)
    seen.new = restarted(cluster)
    with health(cluster, "counted", ["--count", *addresses(seen.new, "gateway")]) as counting:
        counting.finish()
        told = [*seen.health, *counting.lines]
    seen.counted = {event["pod"]: Counter(event["counted"]) for event in told if "counted" in event}


def run(say: Callable[[str], None]) -> Seen:
    """Start a cluster, look, take it away."""
    cluster = Cluster(STATE, ROOT / ".state" / "tools", nodes=[CONTROL, WORKERS[0]], metrics=False)
    seen = Seen()
    try:
        say("a control plane and a worker")
        cluster.start(lambda text: say(f"  {text}"))
        for folder in ("seen", "pods"):
            shutil.rmtree(cluster.state / folder, ignore_errors=True)
        with logs_kept(cluster, cluster.state / "pods"):
            say("the chart")
            cluster.install(VALUES, timeout=f"{PATIENCE}s")
            say("the gateways' view of the services")
            # A gateway is ready without them, and for a moment after their start still waits to connect again.
            with health(cluster, "serving", ["--serving", *addresses(restarted(cluster), "gateway")]) as waiting:
                waiting.finish()
            say("helm test")
            seen.helm_test = helm_test(cluster)
            say("a stray pod and a privileged one")
            seen.stray = reached(cluster, NAMESPACE, seconds=PATIENCE)
            seen.refusal = refusal(cluster)
            say("load")
            restart(cluster, seen, say)
        return seen
    finally:
        say("taking it away")
        cluster.stop()


@contextlib.contextmanager
def timed(say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """A function that says what begins, with the seconds since the ``with`` began; its end is said too."""
    begun = time.monotonic()

    def tell(what: str) -> None:
        say(f"  {time.monotonic() - begun:5.1f} s  {what}")

    try:
        yield tell
    finally:
        tell("the end")
