"""python -m loadtest.capacity [SCENARIO]: the highest rate that keeps the objectives of slo.yaml.

Short open-loop steps at twice the rate each, then between the highest rate that kept and the lowest that
broke, until they are within 10 %; at last a step twice as long with another seed confirms the rate. A step
that breaks is repeated once, and counts as broken where both do. Writes report.md, data.json and plots.
Ends with 0 where such a rate was found, 1 where even the lowest broke, 2 where nothing could be run.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import arrivals, data, plots, scenarios, slo, target
from loadtest.launch import Run
from loadtest.load import REPORTS, arguments, told
from loadtest.measures import Board
from loadtest.report import Row
from loadtest.scenarios import Replay, Scenario, ScenarioError
from loadtest.slo import Objectives

PRECISION = 1.10  # what the lowest rate that broke may be, over the highest that kept
DEFAULT = "chat"


@dataclass(frozen=True)
class Step:
    """One run at one rate."""

    rate: float  # wanted, arrivals a second
    summary: dict[str, Any]  # summary.json of the run
    confirms: bool = False

    @property
    def kept(self) -> bool:
        return not self.summary["broken"]

    @property
    def seconds(self) -> float:
        return float(self.summary["duration_seconds"])

    @property
    def board(self) -> Board:
        board = Board()
        board.merge(self.summary)
        return board

    @property
    def rows(self) -> list[Row]:
        return list(self.summary["operations"])

    @property
    def lag_ms(self) -> float:
        """How late the sender itself was, 99th percentile."""
        return max((tally.quantile("lag", 0.99) or 0.0 for tally in self.board.tallies.values()), default=0.0) * 1000


Probe = Callable[[float, bool], bool]  # rate, whether it confirms -> whether the objectives were kept


@dataclass(frozen=True)
class Bracket:
    """``kept``: the highest rate that kept; None where none did. ``broke``: the lowest above it that broke, or inf."""

    kept: float | None
    broke: float


def search(probe: Probe, start: float, least: float, most: float) -> Bracket:
    """The highest rate between ``least`` and ``most`` that keeps, to 10 %."""
    kept: list[float] = []
    broke, rate = math.inf, min(max(start, least), most)
    while True:
        if probe(rate, False):
            kept.append(rate)
        else:
            broke = rate
        while kept and (broke <= kept[-1] * PRECISION or kept[-1] >= most):
            if probe(kept[-1], True):
                return Bracket(kept[-1], broke)
            broke = kept.pop()
        if kept:
            rate = min(most, kept[-1] * 2) if math.isinf(broke) else math.sqrt(kept[-1] * broke)
        elif broke <= least:
            return Bracket(None, broke)
        else:
            rate = max(least, broke / 2)


def main() -> None:
    parser = arguments("loadtest.capacity", __doc__)
    parser.add_argument("scenario", nargs="?", default=DEFAULT)
    parser.add_argument("--start", type=float, help="first rate, arrivals a second; the scenario's own where not given")
    parser.add_argument("--least", type=float, default=0.05, help="lowest rate that is tried")
    parser.add_argument("--most", type=float, default=2000, help="highest rate that is tried")
    parser.add_argument("--step", type=float, default=15, help="least seconds of a step")
    parser.add_argument("--longest", type=float, default=60, help="most seconds of a step")
    parser.add_argument(
        "--arrivals", type=int, default=20, help="arrivals of the rarest operation that a step lasts for, within those"
    )
    parser.add_argument("--out", type=Path, help="folder; .state/reports/capacity-SCENARIO where not given")
    args = parser.parse_args()
    with told():
        scenario = scenarios.pick(args.scenario, args.scenarios)
        start = args.start or arrivals.mean_rate(scenario)
        objectives = slo.load(args.slo)
        if not set(scenario.mix) & set(objectives):
            raise ScenarioError(
                f"{args.slo.name} has no objective for {', '.join(scenario.mix)}; a capacity needs one."
            )
        host, key = target.found(args.target, args.api_key)
        out: Path = (args.out or REPORTS / f"capacity-{args.scenario}").resolve()
        rarest = min(part.weight for part in scenario.mix.values()) / sum(part.weight for part in scenario.mix.values())
        steps: list[Step] = []
        with target.connect(host, key) as client, data.laid_out(client, scenario.mix) as name:

            def probe(rate: float, confirms: bool) -> bool:
                # A step that broke is repeated once: a moment in which the machine stalled is no limit.
                return any(
                    step(rate, confirms, scenario.seed + 1000 * (2 * attempt + confirms)) for attempt in range(2)
                )

            def step(rate: float, confirms: bool, first_seed: int) -> bool:
                seconds = min(args.longest, max(args.step, args.arrivals / rarest / rate)) * (2 if confirms else 1)
                seed = fair_seed(scenario, rate, seconds, first_seed)
                folder = out / "steps" / f"{len(steps) + 1:02}"
                run = Run(
                    scenario=args.scenario, host=host, key=key, data=name, out=folder, scenarios_file=args.scenarios,
                    slo_file=args.slo, rate=rate, duration=seconds, seed=seed, workers=args.workers,
                )  # fmt: skip
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "output.txt").open("w") as output:
                    if run.start(output) == 2:
                        raise ScenarioError(f"A step measured nothing; {folder / 'output.txt'} tells why.")
                steps.append(Step(rate, json.loads((folder / "summary.json").read_text()), confirms))
                print(_line(steps[-1]), flush=True)
                return steps[-1].kept

            print(f"{args.scenario}: {scenario.about} From {start:g} arrivals a second at {host}", flush=True)
            found = search(probe, start, args.least, args.most)
        _write(out, args.scenario, steps, found, objectives)
        print(f"\n{conclusion(args.scenario, found)}\nReport: {os.path.relpath(out / 'report.md')}")
        sys.exit(0 if found.kept else 1)


def fair_seed(scenario: Scenario, rate: float, seconds: float, first: int) -> int:
    """The first seed from there on with which a short random step has as many arrivals as its rate says, within 2 %."""
    if isinstance(scenario.arrivals, Replay):
        return first
    expected = rate * seconds
    for seed in range(first, first + 200):
        number = len(arrivals.plan(arrivals.changed(scenario, rate, seconds, seed)))
        if abs(number - expected) <= max(1.0, expected * 0.02):
            return seed
    return first


def _line(step: Step) -> str:
    what = "confirmation" if step.confirms else "step"
    outcome = "kept" if step.kept else f"broken: {step.summary['broken'][0]}"
    return f"  {what} of {step.seconds:.0f} s at {step.rate:.3g}/s, {step.summary['arrivals']} arrivals: {outcome}"


def conclusion(scenario: str, found: Bracket) -> str:
    if found.kept is None:
        return f"{scenario}: no rate kept the SLO; the lowest tried was {found.broke:.3g} arrivals a second."
    if math.isinf(found.broke):
        return f"{scenario} keeps its SLO at {found.kept:.3g} arrivals a second, the highest rate tried."
    return f"{scenario} keeps its SLO up to {found.kept:.3g} arrivals a second; it breaks at {found.broke:.3g}."


def _write(out: Path, scenario: str, steps: list[Step], found: Bracket, objectives: Objectives) -> None:
    pictures = plots.draw(out, scenario, steps, found, objectives)
    facts = {
        "scenario": scenario, "capacity": found.kept, "broke": found.broke if math.isfinite(found.broke) else None,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "steps": [{"rate": step.rate, "confirms": step.confirms, **step.summary} for step in steps],
    }  # fmt: skip
    (out / "data.json").write_text(json.dumps(facts, indent=1))
    (out / "report.md").write_text(document(scenario, steps, found, objectives, pictures))


def document(scenario: str, steps: list[Step], found: Bracket, objectives: Objectives, pictures: dict[str, str]) -> str:
    """The report; ``pictures``: file name to what it shows."""
    names = [name for name in steps[0].board.tallies if name in objectives]
    wanted = [f"- {name}: {_wanted(objectives[name].model_dump(exclude_none=True))}" for name in sorted(names)]
    lines = [
        f"# Capacity: {scenario}", "", f"**{conclusion(scenario, found)}**", "",
        f"Measured on {time.strftime('%Y-%m-%d %H:%M')} with `make capacity SCENARIO={scenario}` from {platform.node()}"
        f" ({os.cpu_count()} cores) against {steps[0].summary['target']}.", "",
        "The objectives (`slo.yaml`):", "", *wanted, "", *_step_table(steps), "",
        "Latency and TTFT count from when a call was due; failed and dropped arrivals rank above all others (inf)."
        " Sender late: how much later than due calls were sent, 99th percentile; where it is not small, the sender"
        " is part of what was measured.", "",
    ]  # fmt: skip
    for file, text in pictures.items():
        lines += [f"## {text}", "", f"![{text}]({file})", ""]
    return "\n".join(lines)


def _wanted(entry: dict[str, Any]) -> str:
    call = entry.pop("call", {})
    parts = [f"{key} {value:g}" for key, value in entry.items()]
    bounds = ", ".join(f"{key} {value:g}" for key, value in call.items())
    return ", ".join(parts) + (f"; a good call: {bounds}" if bounds else "")


def _step_table(steps: list[Step]) -> list[str]:
    titles = [
        "rate [1/s]", "seconds", "operation", "arrivals", "failed", "goodput [%]", "latency p50 / p95 / p99 [ms]",
        "TTFT p50 / p95 [ms]", "TTFT server p50 / p95 [ms]", "ITL p50 / p95 [ms]", "tokens/s", "sender late [ms]", "SLO",
    ]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for step in sorted(steps, key=lambda step: (step.rate, step.confirms)):
        for row in step.rows:
            spans = [
                _joined(row, "latency", (50, 95, 99)), _joined(row, "ttft", (50, 95)),
                _joined(row, "ttft_server", (50, 95)), _joined(row, "itl", (50, 95)),
            ]  # fmt: skip
            own = [text for text in step.summary["broken"] if text.startswith(f"{row['operation']}:")]
            cells = [
                f"{step.rate:.3g}{' (confirmation)' if step.confirms else ''}", f"{step.seconds:.0f}", row["operation"],
                row["arrivals"], row["failed"], row["goodput_percent"], *spans, row["tokens_per_second"] or "",
                f"{step.lag_ms:.1f}", own[0].partition(": ")[2] if own else "kept",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def _joined(row: Row, measure: str, levels: tuple[int, ...]) -> str:
    values = [row.get(f"{measure}_p{level}_ms") for level in levels]
    return (
        ""
        if values[0] is None
        else " / ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    )


if __name__ == "__main__":
    main()
