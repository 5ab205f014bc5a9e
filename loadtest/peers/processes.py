"""Processes of contenders: servers by port, workers that speak workers/protocol.py; all end with this one."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

HOST = "127.0.0.1"
START_SECONDS = 180
ANSWER_LIMIT = 2**28  # bytes of one answer's line
STOP_SECONDS = 10
P = TypeVar("P", bound="Process")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def family(pid: int) -> list[int]:
    """A process and all that it and its children started, whichever thread did."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(one for child in children for one in family(child))]


def processor_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Process:
    """One process with a log; it also ends if this process is killed, and Ctrl-C in the terminal does not reach it."""

    def __init__(self, command: Sequence[str], log: Path, core: int | None, environment: Mapping[str, str]) -> None:
        """``core``: the one processor core that it may use; None for all."""
        self.log = log
        pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
        self.command = ["setpriv", "--pdeathsig", "TERM", *pinned, *command]
        self.environment = os.environ | dict(environment)
        self.process: asyncio.subprocess.Process | None = None

    async def _start(self, *, piped: bool) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        pipe = subprocess.PIPE if piped else subprocess.DEVNULL
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=pipe, stdout=pipe if piped else log, stderr=log, limit=ANSWER_LIMIT,
                start_new_session=True, env=self.environment,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def failed(self, what: str) -> RuntimeError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return RuntimeError(f"{what}: {' '.join(self.command)}\n{tail}")

    async def stop(self) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Server(Process):
    """A server that is ready once it listens on its port."""

    def __init__(
        self, command: Sequence[str], log: Path, port: int, core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(command, log, core, environment or {})
        self.port = port

    async def start(self) -> None:
        await self._start(piped=False)
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise self.failed("does not start")
            await asyncio.sleep(0.1)


class Worker(Process):
    """A script of workers/ that answers calls."""

    def __init__(
        self, command: Sequence[str], log: Path, core: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(command, log, core, environment or {})

    async def start(self) -> None:
        await self._start(piped=True)
        await asyncio.wait_for(self._answer(), START_SECONDS)

    async def _answer(self) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise self.failed("ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self.failed(answer["error"])
        return answer["result"]

    async def call(self, name: str, **arguments: Any) -> Any:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
        await self.process.stdin.drain()
        return await self._answer()


class Processes:
    """``async with``: what was started is stopped at the end, whatever happened."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    async def __aenter__(self) -> Processes:
        return self

    async def start(self, process: P) -> P:
        self._started.append(process)
        await process.start()  # type: ignore[attr-defined]
        return process

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(process.stop() for process in self._started))
