"""When calls arrive: pure functions of a process, a duration and a seed, the same on every worker.

All times are seconds since the start. ``times`` gives the moments of a process; ``plan`` turns a
scenario into arrivals, and ``share`` takes one worker's part, so that the parts of all workers together
are exactly the process.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.scenarios import (
    Burst,
    Closed,
    Constant,
    Part,
    Poisson,
    Process,
    Ramp,
    Replay,
    Scenario,
    ScenarioError,
    parse,
)

MOST_ARRIVALS = 5_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call that is due."""

    index: int  # its number in the process
    at_seconds: float
    operation: str
    part: Part  # how large its request is


def times(process: Process, duration: float, seed: int) -> Iterator[float]:
    """The moments of a process, ascending, before ``duration``."""
    match process:
        case Constant(rate=rate):
            yield from (number / rate for number in range(math.ceil(duration * rate - 1e-9)))
        case Poisson(rate=rate):
            yield from _thinned(lambda _: rate, rate, duration, seed)
        case Ramp():
            slope = (process.end_rate - process.start_rate) / duration
            yield from _thinned(lambda at: process.start_rate + slope * at, process.peak, duration, seed)
        case Burst():
            yield from _thinned(
                lambda at: process.burst_rate if at % process.every_seconds < process.burst_seconds else process.rate,
                process.peak, duration, seed,
            )  # fmt: skip
        case _:
            raise TypeError(f"{type(process).__name__} has no times of its own")


def _thinned(rate: Callable[[float], float], peak: float, duration: float, seed: int) -> Iterator[float]:
    """A Poisson process whose rate changes: gaps at the peak rate, each moment kept with its share of the peak."""
    draw, at = random.Random(f"times/{seed}"), 0.0
    while (at := at + draw.expovariate(peak)) < duration:
        if draw.random() * peak < rate(at):
            yield at


def plan(scenario: Scenario) -> list[Arrival]:
    """Every arrival of an open-loop scenario."""
    if isinstance(scenario.arrivals, Replay):
        return _replayed(scenario, scenario.arrivals)
    if isinstance(scenario.arrivals, Closed):
        raise ScenarioError("A closed scenario has no arrivals to plan; its users ask as they go.")
    if (number := scenario.arrivals.mean * scenario.duration_seconds) > MOST_ARRIVALS:
        raise ScenarioError(
            f"{number:.0f} arrivals are more than a run can plan, {MOST_ARRIVALS}; lower rate or duration."
        )
    draw = random.Random(f"mix/{scenario.seed}")
    names, weights = list(scenario.mix), [one.weight for one in scenario.mix.values()]
    moments = times(scenario.arrivals, scenario.duration_seconds, scenario.seed)
    return [
        Arrival(index, at, name := draw.choices(names, weights)[0], scenario.mix[name])
        for index, at in enumerate(moments)
    ]


def share(arrivals: Sequence[Arrival], worker: int, workers: int) -> list[Arrival]:
    """What one of ``workers`` sends: every n-th arrival, from its own number on."""
    return list(arrivals[worker::workers])


def mean_rate(scenario: Scenario) -> float:
    """Arrivals a second of an open-loop scenario, over its duration or its whole trace."""
    if isinstance(scenario.arrivals, Closed):
        raise ScenarioError("A closed scenario has users, no rate; choose one with open arrivals.")
    if isinstance(scenario.arrivals, Replay):
        moments: list[float] = [line["at_seconds"] for line in read_trace(scenario.arrivals.path)]
        return len(moments) / max(*moments, 1.0) * scenario.arrivals.speed
    return scenario.arrivals.mean


def changed(scenario: Scenario, rate: float | None, duration: float | None, seed: int | None = None) -> Scenario:
    """The same scenario with another mean rate (arrivals a second), duration (seconds) or seed."""
    entry = scenario.model_dump()
    if seed is not None:
        entry["seed"] = seed
    if duration is not None:
        entry["duration_seconds"] = duration
    if rate is not None:
        if not rate > 0:
            raise ScenarioError(f"rate is {rate:g}; it must be more than 0.")
        factor = rate / mean_rate(scenario)
        if not isinstance(scenario.arrivals, Closed):
            entry["arrivals"] = scenario.arrivals.scaled(factor).model_dump()
    return parse(Scenario, entry, "the changed scenario")


# Traces

_COLUMNS = ("at_seconds", "operation", "max_tokens", "words", "texts")


def _replayed(scenario: Scenario, replay: Replay) -> list[Arrival]:
    draw = random.Random(f"mix/{scenario.seed}")
    names, weights = list(scenario.mix), [one.weight for one in scenario.mix.values()]
    found: list[Arrival] = []
    for line in sorted(read_trace(replay.path), key=lambda line: float(line["at_seconds"])):
        at = line["at_seconds"] / replay.speed
        if at >= scenario.duration_seconds:
            break
        name = line.get("operation") or draw.choices(names, weights)[0]
        if name not in scenario.mix:
            raise ScenarioError(f"{replay.path}: operation {name} is not in the scenario's mix ({', '.join(names)}).")
        sizes = {key: (line[key], line[key]) if key != "texts" else line[key] for key in _COLUMNS[2:] if key in line}
        found.append(Arrival(len(found), at, name, scenario.mix[name].model_copy(update=sizes)))
    return found


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The lines of a trace: JSON objects one a line, or CSV with a header where the name ends in .csv.

    ``at_seconds`` is required; ``operation``, ``max_tokens``, ``words`` and ``texts`` may be given.
    """
    try:
        text = path.read_text()
    except OSError as failure:
        raise ScenarioError(f"The trace {path} cannot be read: {failure.strerror}.") from None
    if path.suffix == ".csv":
        numbered = list(enumerate(csv.DictReader(text.splitlines()), 2))
    else:
        numbered = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                numbered.append((number, _object(line, path, number)))
    if not numbered:
        raise ScenarioError(f"The trace {path} holds no arrivals.")
    return [_checked(entry, path, number) for number, entry in numbered]


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ScenarioError(f"{path}, line {number}: is not a JSON object.")
    return found


def _checked(entry: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in _COLUMNS:
            raise ScenarioError(f"{path}, line {number}: {key} is no column of a trace ({', '.join(_COLUMNS)}).")
        if value in (None, ""):
            continue
        try:
            found[key] = value if key == "operation" else float(value) if key == "at_seconds" else int(value)
        except (TypeError, ValueError):
            raise ScenarioError(f"{path}, line {number}: {key} is {value!r}; a number is needed.") from None
        if key != "operation" and not (math.isfinite(found[key]) and found[key] >= (0 if key == "at_seconds" else 1)):
            raise ScenarioError(f"{path}, line {number}: {key} is {value!r}, out of range.")
    if "at_seconds" not in found:
        raise ScenarioError(f"{path}, line {number}: at_seconds is missing.")
    return found
