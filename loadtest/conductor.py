"""Runs a scenario on Locust's runner: starts the session of each process, joins the workers' sums, judges at the end."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from genmesh import Client
from locust import LoadTestShape, runners
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest import arrivals, data, report, rows, slo, target
from loadtest.measures import LOST, Board, Call
from loadtest.operations import Api
from loadtest.scenarios import Scenario
from loadtest.session import Session
from loadtest.slo import Objectives
from loadtest.users import GenmeshUser

LEAD_SECONDS = {LocalRunner: 0.2, MasterRunner: 2.0}  # until every process is ready to begin
REPORT_LAG_SECONDS = {LocalRunner: 1, MasterRunner: 3}  # until every call of a second is on the board
LATE_SECONDS = 0.05  # what is worth telling
GRACE_SECONDS = 30  # past the last deadline; then the run ends with what it has

runners.WORKER_REPORT_INTERVAL = 1.0  # seconds


class Conductor:
    """One a process, for all runs that the process makes."""

    def __init__(
        self, environment: Environment, host: str, key: str, scenario: Scenario | None, slo_file: Path
    ) -> None:
        self.environment, self.host, self.key, self.scenario = environment, host, key, scenario
        self.objectives: Objectives = slo.load(slo_file)
        self.client: Client | None = None
        self.session: Session | None = None
        self.board = Board()  # of all processes; on a worker unused
        self.done: set[str] = set()  # workers that have sent and told all
        self.tokens = rows.TokenRows()
        self.result: dict[str, Any] = {}
        self.found: list[report.Row] = []
        self.resources = contextlib.ExitStack()
        events: Any = environment.events
        events.test_start.add_listener(self.on_start)
        if isinstance(environment.runner, WorkerRunner):
            events.report_to_master.add_listener(self.on_report)
        else:
            events.worker_report.add_listener(self.on_worker_report)
            events.test_stop.add_listener(self.on_stop)
            events.quitting.add_listener(self.on_quitting)
            events.quit.add_listener(self.on_quit)

    @property
    def options(self) -> Any:
        return self.environment.parsed_options

    @property
    def is_worker(self) -> bool:
        return isinstance(self.environment.runner, WorkerRunner)

    # Start

    def lay_out(self, operations: Iterable[str]) -> None:
        """Lay out what the operations need, unless the option names data that are there; removed when Locust quits."""
        if not self.is_worker and not self.options.load_data:
            client = self.resources.enter_context(target.connect(self.host, self.key))
            self.options.load_data = self.resources.enter_context(data.laid_out(client, operations))

    def on_start(self, environment: Environment, **_: Any) -> None:
        """Every process begins its part of the run; the master (or only process) says when, and with which data."""
        runner: Any = environment.runner
        if not self.is_worker:
            lead = LEAD_SECONDS[type(runner)]
            self.options.load_began_at = time.time() + lead
            self.options.load_workers = [one.id for one in runner.clients.ready] if self._is_master else []
            self.board, self.done, self.tokens, self.result, self.found = Board(), set(), rows.TokenRows(), {}, []
        workers = self.options.load_workers
        self.session = GenmeshUser.session = Session(
            environment, self._api(), self.objectives,
            start=time.monotonic() + self.options.load_began_at - time.time(), scenario=self.scenario,
            worker=workers.index(runner.client_id) if workers and self.is_worker else 0, workers=max(1, len(workers)),
        )  # fmt: skip
        if not self.is_worker and not self._is_master:
            self.session.board = self.board
        if not self.is_worker:
            gevent.spawn(self._tick, self.session)

    @property
    def _is_master(self) -> bool:
        return isinstance(self.environment.runner, MasterRunner)

    def _api(self) -> Api | None:
        if self._is_master:
            return None
        self.client = self.client or Client(self.host, api_key=self.key)
        return Api(self.client, *data.names(self.options.load_data))

    # While it runs

    def _tick(self, session: Session) -> None:
        """Enter the tokens of each second, and tell how it goes, until the run ends."""
        told = 0
        while self.session is session and not self.result:
            second = int(time.monotonic() - session.start)
            self.tokens.enter(self.environment, self.board, second - REPORT_LAG_SECONDS[type(self.environment.runner)])
            if self.options.headless and second >= told + 5:
                told = second
                failed = sum(tally.failed for tally in self.board.tallies.values())
                print(f"  {second} s: {self.board.total_calls} calls ended, {failed} of them failed", flush=True)
            gevent.sleep(1)

    def on_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        """A worker hands its sums to the master."""
        if self.session:
            finished = self.session.finished
            data["genmesh"] = {"finished": finished, **self.session.take_board().packed()}

    def on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        """The master takes a worker's sums."""
        if packed := data.get("genmesh"):
            self.board.merge(packed)
            if packed["finished"]:
                self.done.add(client_id)

    @property
    def finished(self) -> bool:
        """Whether all calls that were due have ended and are on the board."""
        if not self.session:
            return False
        if self._is_master:
            live = [one.id for one in self.environment.runner.clients.running]  # type: ignore[union-attr]
            return bool(self.done) and self.done.issuperset(live)
        return self.session.finished

    @property
    def overdue(self) -> bool:
        session = self.session
        return bool(session and session.scenario) and time.monotonic() > (
            session.end + session.scenario.longest_deadline + GRACE_SECONDS  # type: ignore[union-attr]
        )

    # End

    def on_stop(self, **_: Any) -> None:
        # Locust's HTML report is written after this and before quitting.
        if self.finished or not self._is_master:
            self.judge()

    def on_quitting(self, **_: Any) -> None:
        if self.session and not self.result:
            self.environment.runner.quit()  # type: ignore[union-attr]  # brings what the workers still have
            self.judge()
        if self.options.csv_prefix:
            gevent.sleep(1.2)  # Locust writes its CSV each second, and not once more at the end
        self.resources.close()
        if self.result:
            self.environment.process_exit_code = 1 if self.result["broken"] else 0

    def judge(self) -> None:
        """Count what was lost, hold everything against the objectives, and write the summary; once a run."""
        if self.result or not self.session:
            return
        elapsed = self._elapsed()
        planned = self._count_lost()
        self.tokens.enter(self.environment, self.board, math.ceil(elapsed))
        wanted = list(self.scenario.mix) if self.scenario else sorted(self.board.tallies)
        self.found = report.rows(self.board, elapsed)
        self.result = {
            "scenario": self.options.scenario, "target": self.host, "planned": planned,
            "arrivals": self.board.total_calls, "workers": self.session.workers, "elapsed_seconds": round(elapsed, 3),
            "began_at": self.options.load_began_at,
            "duration_seconds": self.scenario.duration_seconds if self.scenario else None,
            "broken": slo.broken(self.objectives, self.board, wanted),
        }  # fmt: skip
        if self.options.out:
            report.write(Path(self.options.out), self.result, self.found, self.board)

    def _elapsed(self) -> float:
        """Seconds from the start to the end of the last call, at least the scenario's duration."""
        last = max(
            (second + 1 for series in self.board.series.values() for counts in series.values() for second in counts),
            default=0,
        )
        return max(float(last), self.scenario.duration_seconds if self.scenario else 0.0)

    def _count_lost(self) -> int | None:
        """Arrivals of an open loop of which nobody told anything count as failed; how many were planned."""
        if not self.scenario or not self.scenario.is_open:
            return None
        plan = arrivals.plan(self.scenario)
        for name in self.scenario.mix:
            missing = sum(one.operation == name for one in plan) - self.board[name].calls
            if missing > 0:
                self.board[name].lose(missing)
                for _ in range(missing):
                    rows.log_request(self.environment, name, None, Call(name, 0, error=LOST))
        return len(plan)

    def on_quit(self, **_: Any) -> None:
        """After Locust's own tables: ours, and what was broken."""
        if not self.result:
            return
        print(f"\n{report.table(self.found)}\n\n{report.LEGEND}\n")
        print(*verdict(self.result, self.objectives, self.found, self.board), sep="\n")
        sys.stdout.flush()


def verdict(result: dict[str, Any], objectives: Objectives, found: list[report.Row], board: Board) -> list[str]:
    """What to say of the objectives, a sentence a line."""
    free = [str(row["operation"]) for row in found if row["operation"] not in objectives]
    lines = [f"No objective in slo.yaml for {', '.join(free)}; goodput counts calls that ended well."] if free else []
    late = max((tally.quantile("lag", 0.99) or 0.0 for tally in board.tallies.values()), default=0.0)
    if late > LATE_SECONDS:
        lines.append(
            f"The sender was late itself: by {late * 1000:.0f} ms at the 99th percentile, which is in the latencies."
        )
    if result["broken"]:
        return [*lines, f"SLO broken ({len(result['broken'])}):", *(f"  {text}" for text in result["broken"])]
    return [*lines, "SLO kept."]


class Until(LoadTestShape):
    """Keeps the scenario's users until all that was due has ended."""

    abstract = True  # or Locust would take it from wherever it is imported

    def __init__(self, conductor: Conductor, users: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conductor, self.users = conductor, users

    def tick(self) -> tuple[int, float] | None:
        if self.conductor.finished or self.conductor.overdue:
            return None
        return self.users, float(self.users)
