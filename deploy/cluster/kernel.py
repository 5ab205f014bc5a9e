"""What a cluster holds of the kernel: control groups, namespaces, links; and how all of it is let go.

Every process of a cluster is in one of its control groups before it runs a program, so these groups are the
ledger: `release` needs no other record, and finds what a killed start left behind. A node lives in network,
mount, process, IPC and host-name namespaces of its own, so that its links, mounts and pods end with its first
process.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# Processor time of the whole cluster beside any other group or process of this machine, which counts as one: it stands for
# three machines, and Triton gives up a model whose process did not run for a second.
WEIGHT = 8


def hierarchies() -> list[Path]:
    """The mounted control group hierarchies: one with version 2, one for each controller with version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in sorted(CGROUPS.iterdir()) if (folder / "cgroup.procs").exists()]


class Ledger:
    """The control groups of the cluster whose state is in this folder."""

    def __init__(self, state: Path) -> None:
        self.name = "genmesh-" + hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def make(self, part: str) -> str:
        """Make a group for a part ("worker-1/pods") in each hierarchy; its path below the hierarchy's root."""
        path = Path(self.name) / part
        for root in hierarchies():
            for depth in range(1, len(path.parts) + 1):
                group = root.joinpath(*path.parts[:depth])
                group.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):  # version 1 wants them filled before a process enters
                    setting = group / file
                    if root.name == "cpuset" and not setting.read_text().strip():
                        setting.write_text((group.parent / file).read_text())
                for file, usual in (("cpu.shares", 1024), ("cpu.weight", 100)):
                    if depth == 1 and (group / file).exists():
                        (group / file).write_text(str(WEIGHT * usual))
                controllers = group / "cgroup.subtree_control"
                if controllers.exists() and root == CGROUPS and depth < len(path.parts):
                    wanted = (group / "cgroup.controllers").read_text().split()
                    controllers.write_text(" ".join("+" + name for name in wanted))
        return f"/{path}"

    def enter(self, part: str) -> None:
        """Put this process into a part's group (given to a child before it runs its program)."""
        for root in hierarchies():
            (root / self.name / part / "cgroup.procs").write_text(str(os.getpid()))

    def inside(self, part: str) -> list[str]:
        """The prefix that runs a command in a part's group."""
        files = [str(root / self.name / part / "cgroup.procs") for root in hierarchies()]
        return ["sh", "-c", f'echo $$ | tee {shlex.join(files)} > /dev/null && exec "$0" "$@"']

    def start(self, part: str, command: list[str], log: Path, environment: dict[str, str] | None = None) -> int:
        """Start a command in a part's group, in a session of its own; its process id."""
        self.make(part)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
                preexec_fn=lambda: self.enter(part),
            )
        self._started.append((part, process))
        return process.pid

    def groups(self, part: str = "") -> list[Path]:
        """Every group of the cluster or of a part, the deepest first."""
        roots = [root / self.name / part for root in hierarchies()]
        found = [Path(folder) for root in roots for folder, _, _ in os.walk(root)]
        return sorted(found, key=lambda group: len(group.parts), reverse=True)

    def processes(self, part: str = "") -> set[int]:
        """The processes in the cluster's groups, or in those of a part."""
        found: set[int] = set()
        for group in self.groups(part):
            try:
                found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
            except FileNotFoundError:
                continue
        return found

    def release(self, part: str = "", seconds: float = 30.0) -> None:
        """Kill every process of the cluster or of a part and remove its groups; links and mounts go with them."""
        until = time.monotonic() + seconds
        while processes := self.processes(part):
            if time.monotonic() > until:
                raise TimeoutError(f"processes {sorted(processes)} do not end")
            for group in self.groups(part):
                state = group / "freezer.state"
                if state.exists() and state.read_text().strip() != "THAWED":
                    state.write_text("THAWED")
            for process in processes:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for name, ended in self._started:
            if name.startswith(part):
                ended.wait()
        self._started = [one for one in self._started if not one[0].startswith(part)]
        while groups := self.groups(part):
            for group in groups:
                try:
                    group.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:  # the kernel has not yet let go of the last process
                    if time.monotonic() > until:
                        raise
            time.sleep(0.05)

    def first(self, part: str) -> int:
        """The first process of a part's process namespace, as seen from here; 0 where there is none."""
        for process in sorted(self.processes(part)):
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except FileNotFoundError:
                continue
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(numbers) == 2 and numbers[1] == "1":
                return process
        return 0


# A process namespace, a mount namespace that sends nothing out, and the rest of what makes a machine.
UNSHARE = [
    "unshare",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--mount-proc",
    "--propagation",
    "private",
]


def within(process: int, *, whole: bool = False) -> list[str]:
    """A command's prefix that runs it in a process's network namespace; ``whole``: in all of its namespaces."""
    kinds = ["--mount", "--uts", "--ipc", "--net", "--pid"] if whole else ["--net"]
    return ["nsenter", "--target", str(process), *kinds, "--"]


def run(command: list[str], **options: object) -> str:
    """Run a command; its output. If it fails, the exception has its arguments (without prefixes) and its errors."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        own = command[command.index("--") + 1 :] if "nsenter" in command else command
        raise RuntimeError(f"{' '.join(own)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return str(done.stdout)


def make_switch(switch: int, address: str) -> None:
    """A bridge in a namespace of its own. Nothing leads from there to the machine's network."""
    for command in (
        "ip link set lo up",
        "ip link add switch type bridge",
        f"ip address add {address}/24 dev switch",
        "ip link set switch up",
    ):
        run([*within(switch), *command.split()])


def plug_in(switch: int, process: int, name: str, address: str, gateway: str, routes: dict[str, str]) -> None:
    """Link a process's network namespace to the switch; ``routes``: pod network -> the node that has it."""
    run([*within(switch), *f"ip link add {name} type veth peer name eth0 netns {process}".split()])
    run([*within(switch), *f"ip link set {name} master switch up".split()])
    for command in (
        "ip link set lo up",
        f"ip address add {address}/24 dev eth0",
        "ip link set eth0 up",
        # Leads nowhere, but without a default route service addresses cannot be reached from a node.
        f"ip route add default via {gateway}",
        *(f"ip route add {network} via {node}" for network, node in routes.items()),
    ):
        run([*within(process), *command.split()])
