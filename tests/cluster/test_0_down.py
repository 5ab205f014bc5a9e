"""`make cluster-down` leaves nothing, also where the start was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cluster.cluster import ROOT, Cluster, eventually
from deploy.cluster.kernel import CGROUPS, run

TOOLS = ROOT / ".state" / "tools"


def traces(cluster: Cluster) -> list[str]:
    """Whatever the kernel still holds of a cluster."""
    groups = [str(group) for group in CGROUPS.glob(f"**/{cluster.ledger.name}")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(cluster.state) in line]
    links = [line for line in run(["ip", "-o", "link"]).splitlines() if "switch" in line or "worker" in line]
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    running = [line.replace(b"\0", b" ").decode() for line in commands if str(cluster.state).encode() in line]
    return [*groups, *mounts, *links, *running]


@pytest.mark.parametrize("reached", ["switch", "control/node", "worker-2/node"])
def test_a_start_that_was_killed(tmp_path: Path, reached: str) -> None:
    """It has a state of its own, so it stands beside any other cluster."""
    cluster = Cluster(tmp_path / "cluster", TOOLS)
    command = [sys.executable, "-m", "deploy.cluster", "--state", str(cluster.state), "--tools", str(TOOLS)]
    with subprocess.Popen([*command, "up"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starting:
        try:
            eventually(reached, 60, lambda: cluster.ledger.processes(reached))
        finally:
            starting.kill()
    assert traces(cluster)
    assert subprocess.run([*command, "down"], cwd=ROOT, check=False).returncode == 0
    assert not traces(cluster)
    assert subprocess.run([*command, "down"], cwd=ROOT, check=False).returncode == 0


def test_two_starts_at_once(tmp_path: Path) -> None:
    """The second says so and leaves the first alone."""
    cluster = Cluster(tmp_path / "cluster", TOOLS)
    command = [sys.executable, "-m", "deploy.cluster", "--state", str(cluster.state), "--tools", str(TOOLS), "up"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            eventually("the first", 60, lambda: cluster.ledger.processes("switch"))
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert second.returncode == 1
            assert "Another process has just started a cluster" in second.stderr
            assert cluster.ledger.processes("switch")
        finally:
            first.kill()
            first.wait()
            cluster.stop()
    assert not traces(cluster)
