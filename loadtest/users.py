"""Locust's users: ``Arrivals`` sends an open-loop scenario by the clock; the others each wait for their answers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import ClassVar

import gevent  # type: ignore[import-untyped]
from gevent.pool import Group  # type: ignore[import-untyped]
from locust import User

from loadtest.arrivals import plan, share
from loadtest.pace import Pace
from loadtest.scenarios import Closed, Part, Scenario
from loadtest.session import Session

PLAIN_PACE = 1.0  # calls a second of a user of an open scenario that Locust runs as a closed one
FOREVER = 10**6


class GenmeshUser(User):
    abstract = True
    session: ClassVar[Session]  # of this process; set when a test starts

    def rest(self) -> None:
        """There is nothing more to send; stay until Locust stops the user."""
        self.session.through += 1
        gevent.sleep(FOREVER)


class Arrivals(GenmeshUser):
    """Sends this process's share of an open-loop scenario. One a worker; no call waits for another."""

    calls: Group

    def on_start(self) -> None:
        self.calls = Group()

    def on_stop(self) -> None:
        self.calls.kill(block=False)

    def _dispatch(self) -> None:
        session = self.session
        assert session.scenario is not None
        if session.dispatched:  # Locust moved the user of a worker that was lost
            self.rest()
        session.dispatched = True
        for arrival in share(plan(session.scenario), session.worker, session.workers):
            due = session.start + arrival.at_seconds
            if (ahead := due - time.monotonic()) > 0:
                gevent.sleep(ahead)
            if session.open >= session.limit:
                session.drop(arrival.operation, due)
                continue
            draw = random.Random(f"{session.scenario.seed}/{arrival.index}")
            session.open += 1
            self.calls.spawn(session.call, arrival.operation, arrival.part, draw, due)
        self.calls.join()
        self.rest()

    tasks = [_dispatch]  # noqa: RUF012  # Locust's own form


class ClosedUser(GenmeshUser):
    """Asks, waits for the answer, and asks again at its pace."""

    abstract = True
    scenario: ClassVar[Scenario]
    pace: Pace
    draw: random.Random

    def on_start(self) -> None:
        session, arrivals = self.session, self.scenario.arrivals
        rate = arrivals.calls_per_second if isinstance(arrivals, Closed) else PLAIN_PACE
        number = session.users = session.users + 1
        self.draw = random.Random(f"{self.scenario.seed}/{session.worker}/{number}")
        phase = self.draw.random() / rate if rate else 0.0
        self.pace = Pace(rate, max(session.start, time.monotonic()) + phase)

    def wait_time(self) -> float:
        return self.pace.wait(time.monotonic())

    def ask(self, name: str, part: Part) -> None:
        session, now = self.session, time.monotonic()
        if now < self.pace.due:  # the first call
            gevent.sleep(self.pace.due - now)
        due = self.pace.take(time.monotonic())
        if due >= session.end:
            self.rest()
        if time.monotonic() > session.end + self.scenario.longest_deadline:
            session.drop(name, due)  # it was due in time, and could not be sent
            return
        session.open += 1
        session.call(name, part, self.draw, due)


def _task(name: str, part: Part) -> Callable[[ClosedUser], None]:
    def task(user: ClosedUser) -> None:
        user.ask(name, part)

    task.__name__ = name
    return task


def user_of(name: str, scenario: Scenario) -> type[ClosedUser]:
    """The closed-loop users of a scenario, such as RagServiceUser of "rag-service"."""
    title = "".join(word.capitalize() for word in name.replace("_", "-").split("-"))
    tasks = [_task(key, part) for key, part in scenario.mix.items() for _ in range(part.weight)]
    return type(f"{title}User", (ClosedUser,), {"scenario": scenario, "tasks": tasks, "abstract": False, "weight": 1})


def classes(scenarios: dict[str, Scenario]) -> dict[str, type[ClosedUser]]:
    """The users of all scenarios, by their classes' names."""
    made = [user_of(name, scenario) for name, scenario in scenarios.items()]
    return {one.__name__: one for one in made}
