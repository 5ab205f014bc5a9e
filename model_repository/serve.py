"""Run tritonserver from the ``nvidia-pytriton`` wheel over a built model repository.

    python model_repository/serve.py --models FOLDER --cache FOLDER --grpc-port 8001 ...

Only the wheel's binary, Python backend and stub are used. They are linked into ``--cache`` the way
the server expects them, never into site-packages.

Each model runs in a process of its own, a "stub", and this process watches them:

- Triton goes on calling a model ready whose stub has died, and requests that the stub had wait for ever. So Triton is
  ended, and then this process with an error; whoever started it (supervisord, Kubernetes) starts both anew.
- Triton gives up a stub that gives no heartbeat for a second while it loads, as on a busy machine, and then waits for ever
  for its exit. So such a stub is killed: Triton says that the model did not load, and whoever asked may ask again.
- Stubs do not learn that Triton was killed. They are killed when it has ended, or by the next start. If this process is
  killed, the kernel tells Triton to end.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# Triton exports over HTTP, the services over gRPC, so its address has a variable of its own.
TRACE_URL = "TRITON_OTLP_HTTP_URL"
STUB = "triton_python_backend_stub"
WATCH_SECONDS = 1.0
# A stub that Triton ended has left long before so many seconds; one that it has waited for as long was given up.
GIVEN_UP_SECONDS = 10.0
# So many starts of Triton, if it ended because a stub was given up.
STARTS = 3
# The system call wait4 (the process id is its first argument), by architecture.
WAIT4 = {"x86_64": "61", "aarch64": "260"}.get(os.uname().machine)
# What other models' requests have to end in when one model's process died.
LEAVE_SECONDS = 5.0


def backends(cache: Path, server: Path) -> Path:
    """A backend folder with the Python backend and the stub of this Python."""
    folder = cache / "backends" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (*(server / "backends" / "python").iterdir(), stub):
        link = folder / file.name
        if link.is_symlink() or link.exists():
            if link.resolve() == file.resolve():
                continue
            link.unlink()
        link.symlink_to(file)
    return folder.parent


def children(pid: int) -> dict[int, tuple[str, list[str]]]:
    """The processes that a process started: their state (as in proc(5)) and command, empty once it ended."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                with suppress(OSError):
                    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                    command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").split("\0")
                    found[child] = (state, command)
    return found


def awaited(pid: int) -> set[int]:
    """The processes for whose end a thread of a process waits; none where the kernel does not tell."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/syscall"):
        with suppress(OSError):
            number, *arguments = task.read_text().split()
            if number == WAIT4 and arguments:
                found.add(int(arguments[0], 16))
    return found


class Watch:
    """The stubs of a Triton, by process id."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stubs: dict[int, str] = {}  # the model's name
        self.dead: set[int] = set()
        self.waited: dict[int, float] = {}  # since when Triton waits for a stub's exit
        self.given_up = 0  # stubs that were killed because Triton had given them up

    def look(self) -> str | None:
        """The name of a model whose process died; to be called each WATCH_SECONDS.

        Triton collects the exit of a stub that it ended itself at once; one that is a zombie twice in a row died."""
        there = children(self.pid)
        for child, (_, command) in there.items():
            if command[0].endswith(STUB):
                self.stubs[child] = Path(command[1]).parents[1].name
        self.stubs = {child: model for child, model in self.stubs.items() if child in there}
        zombies = {child for child, (state, _) in there.items() if state == "Z"}
        died, self.dead = self.dead & zombies, zombies
        self._free(self.stubs.keys() - zombies)
        return self.stubs.get(min(died), "that was started last") if died else None

    def _free(self, alive: set[int]) -> None:
        """Kill stubs that Triton has given up, and for whose exit it waits."""
        now = time.monotonic()
        self.waited = {child: self.waited.get(child, now) for child in awaited(self.pid) & alive}
        for child, since in self.waited.items():
            if now - since >= GIVEN_UP_SECONDS:
                tell(f"Triton gave up the process of the model {self.stubs[child]} while it loaded; it is killed.")
                self.given_up += 1
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def leftovers(stub: Path) -> list[int]:
    """The processes of a stub whose Triton is no more."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace") != str(stub):
                continue
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if not Path(f"/proc/{parent}/comm").read_text().startswith("tritonserver"):
                found.append(int(folder.name))
    return found


def clear(stub: Path) -> None:
    """Kill the processes that a killed Triton left behind."""
    for process in leftovers(stub):
        tell("A model's process that a killed Triton left behind is killed.")
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def until_free(host: str, port: int, seconds: float) -> None:
    """Wait until nobody listens on a port any more: the Triton of a start before this one may be on its way out."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)):
                return
        time.sleep(0.2)


def ends_with_parent() -> None:
    """Have the kernel end this process, in its own time, when the one that started it ends (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def serve(command: list[str], environment: dict[str, str], stub: Path) -> int:
    """Run Triton until it ends, or one of its models does; the exit status."""
    stopping, triton = False, None

    def stop(received: int, _: object) -> None:
        nonlocal stopping
        stopping = True
        if triton is not None:
            triton.send_signal(received)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for _ in range(STARTS):
        clear(stub)
        triton = subprocess.Popen(command, env=environment, preexec_fn=ends_with_parent)
        watch, model = Watch(triton.pid), None
        while model is None and triton.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                triton.wait(WATCH_SECONDS)
            model = watch.look()
        if model is not None and not stopping:
            end(triton, watch, model)
            return 1
        status = triton.wait()
        if status == 0 or stopping or not watch.given_up:
            break
        tell("Triton ended because a model's process was given up; it is started again.")
    clear(stub)
    return status if status >= 0 else 128 - status


def end(triton: subprocess.Popen[bytes], watch: Watch, model: str) -> None:
    """End Triton, as one of its models did."""
    tell(f"The process of the model {model} ended; Triton is ended too, to be started anew.")
    triton.terminate()
    try:
        triton.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        triton.kill()
        triton.wait()
    for stub in watch.stubs:
        with suppress(ProcessLookupError):
            os.kill(stub, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument(
        "--trace-url",
        default=os.environ.get(TRACE_URL, ""),
        help=f"OTLP/HTTP address for Triton's own spans; {TRACE_URL}",
    )
    parser.add_argument("--trace-config", action="append", default=[], help="as tritonserver's own; the chart's way")
    parser.add_argument("--exit-timeout-secs", type=int, default=20, help="how long requests in flight may go on")
    args = parser.parse_args()
    models, cache = args.models.resolve(), args.cache.resolve()
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        sys.exit("The Python package nvidia-pytriton is not installed; it brings tritonserver.")
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    libraries = [package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    path = os.environ.get("LD_LIBRARY_PATH")
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *([path] if path else [])]),
        # The stub takes its packages from the first python3 on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    binary = server / "bin" / "tritonserver"
    command = [
        str(binary),
        f"--model-repository={models}",
        # A new version takes over when `genmesh-models` says so, not when its files appear.
        "--model-control-mode=explicit", "--load-model=*",
        f"--backend-directory={backends(cache, server)}",
        f"--grpc-address={args.host}", f"--grpc-port={args.grpc_port}",
        f"--http-address={args.host}", f"--http-port={args.http_port}",
        f"--metrics-address={args.host}", f"--metrics-port={args.metrics_port}",
        "--allow-gpu-metrics=false", "--metrics-interval-ms=1000",
        f"--exit-timeout-secs={args.exit_timeout_secs}", "--disable-auto-complete-config",
        # Services look each few seconds whether a connection still lives.
        "--grpc-http2-min-recv-ping-interval-without-data=5000", "--grpc-keepalive-permit-without-calls=1",
        # One after the other: each compiles on all cores, and Triton gives up (and may crash with) a model whose process does
        # not run for a second while it loads.
        "--model-load-thread-count=1",
        # A stub's shared memory starts small and grows; three models share /dev/shm.
        "--backend-config=python,shm-default-byte-size=8388608",
    ]  # fmt: skip
    settings = args.trace_config
    if args.trace_url:
        settings = ["mode=opentelemetry", f"opentelemetry,url={args.trace_url}",
                    "opentelemetry,resource=service.name=genmesh-triton", "level=TIMESTAMPS", "rate=1"]  # fmt: skip
    command += [f"--trace-config={setting}" for setting in settings]
    os.chdir(models)  # relative paths inside models are meant from here
    until_free(args.host, args.grpc_port, args.exit_timeout_secs + LEAVE_SECONDS)
    sys.exit(serve(command, environment, cache / "backends" / "python" / STUB))


if __name__ == "__main__":
    main()
