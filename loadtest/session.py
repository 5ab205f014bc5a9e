"""One run in one process: its clock, its open calls, its sums. Workers hand their sums to the master."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from locust.env import Environment

from loadtest import rows
from loadtest.measures import DROPPED, Board, Call
from loadtest.operations import Api, measure
from loadtest.scenarios import Part, Scenario
from loadtest.slo import NO_OBJECTIVE, Objectives


@dataclass
class Session:
    """``start``: the monotonic clock's value at which the run begins. ``scenario``: None in plain Locust runs."""

    environment: Environment
    api: Api | None  # None on a master, which sends no calls
    objectives: Objectives
    start: float
    scenario: Scenario | None = None
    worker: int = 0
    workers: int = 1
    board: Board = field(default_factory=Board)  # on a worker, what the master does not know yet
    open: int = 0  # calls that run, or are about to
    users: int = 0  # closed-loop users that began
    dispatched: bool = False  # whether the arrivals of this process are being sent
    through: int = 0  # users that have nothing more to send
    calls_file: ClassVar[Path | None] = None  # where each call is written to; of this process

    @property
    def end(self) -> float:
        """When the last call may be due."""
        return self.start + self.scenario.duration_seconds if self.scenario else float("inf")

    @property
    def limit(self) -> int:
        """How many calls this process may have open."""
        return -(-self.scenario.max_in_flight // self.workers) if self.scenario else 1_000_000

    @property
    def finished(self) -> bool:
        """Whether all that was due has been sent and has ended."""
        runner = self.environment.runner
        return self.through > 0 and runner is not None and self.through >= runner.user_count

    def call(self, name: str, part: Part, draw: random.Random, intended: float) -> None:
        """Make one call, which ``open`` counts already, and enter it; ``intended``: when it was due."""
        assert self.api is not None
        try:
            call = measure(self.api, name, part, draw, intended)
        finally:
            self.open -= 1
        self.enter(call)

    def drop(self, name: str, intended: float) -> None:
        """Enter an arrival that is not sent."""
        now = time.monotonic()
        self.enter(Call(name, intended, sent=now, ended=now, error=DROPPED))

    def enter(self, call: Call) -> None:
        good = self.objectives.get(call.operation, NO_OBJECTIVE).call.kept(call)
        self.board.add(call, good, self.start)
        rows.log(self.environment, call, good)
        if self.calls_file:
            with self.calls_file.open("a") as file:  # one write a line: workers share the file
                file.write(json.dumps(call.told(time.time() - time.monotonic())) + "\n")

    def take_board(self) -> Board:
        """The sums since this was asked last."""
        taken, self.board = self.board, Board()
        return taken
