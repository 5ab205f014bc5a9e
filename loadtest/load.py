"""python -m loadtest.load SCENARIO: run a scenario against a cluster, print and write what it measured.

Ends with 0 where every objective of slo.yaml was kept, 1 where one was broken, 2 where nothing could be run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from genmesh.errors import GenmeshError

from loadtest import arrivals, data, scenarios, slo, target
from loadtest.launch import Run
from loadtest.scenarios import FOLDER, Closed, Scenario, ScenarioError

REPORTS = FOLDER.parent / ".state" / "reports"


def number(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return int(text)


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """What every command takes."""
    parser = argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", help="host:port of the gateway; GENMESH_TARGET or `make up`'s where not given")
    parser.add_argument("--api-key", help="GENMESH_API_KEY or `make up`'s where not given")
    parser.add_argument("--workers", type=number, default=0, help="processes that send, beside one that sums up")
    parser.add_argument("--scenarios", type=Path, default=scenarios.SCENARIOS)
    parser.add_argument("--slo", type=Path, default=slo.OBJECTIVES)
    return parser


def own_arguments() -> argparse.ArgumentParser:
    parser = arguments("loadtest.load", __doc__)
    parser.add_argument("scenario", nargs="?", default="", help="a scenario of scenarios.yaml")
    parser.add_argument("--rate", type=float, help="another mean rate, arrivals a second")
    parser.add_argument("--duration", type=float, help="another duration, seconds")
    parser.add_argument("--seed", type=number, help="another seed")
    parser.add_argument(
        "--remote-workers", type=number, default=0, help="workers of other machines to wait for as well"
    )
    parser.add_argument("--port", type=number, default=0, help="where workers of other machines find this one")
    parser.add_argument("--out", type=Path, help="folder of the reports; .state/reports/load-SCENARIO where not given")
    parser.add_argument("--calls", action="store_true", help="write each call to calls.jsonl in that folder as well")
    parser.add_argument(
        "--web", type=number, metavar="PORT", help="show Locust's web page there; it stays until Ctrl-C"
    )
    return parser


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What cannot be run, or is interrupted, ends the process with 2 and a sentence; what it made is removed first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (ScenarioError, target.NoCluster) as failure:
        print(failure, file=sys.stderr)
    except GenmeshError as failure:
        print(f"The data for the load could not be laid out: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
    else:
        return
    sys.exit(2)


def described(scenario: Scenario) -> str:
    if isinstance(scenario.arrivals, Closed):
        return f"{scenario.arrivals.users} users for {scenario.duration_seconds:g} s"
    return f"{len(arrivals.plan(scenario))} {scenario.arrivals.kind} arrivals in {scenario.duration_seconds:g} s"


def main() -> None:
    args = own_arguments().parse_args()
    with told():
        picked = scenarios.pick(args.scenario, args.scenarios)
        scenario = arrivals.changed(picked, args.rate, args.duration, args.seed)
        what = f"{args.scenario}: {scenario.about} {described(scenario)}"
        slo.load(args.slo)
        host, key = target.found(args.target, args.api_key)
        out = (args.out or REPORTS / f"load-{args.scenario}").resolve()
        with target.connect(host, key) as client, data.laid_out(client, scenario.mix) as name:
            print(f"{what} to {host}", flush=True)
            run = Run(
                scenario=args.scenario, host=host, key=key, data=name, out=out, scenarios_file=args.scenarios,
                slo_file=args.slo, rate=args.rate, duration=args.duration, seed=args.seed, workers=args.workers,
                remote_workers=args.remote_workers, port=args.port, web=args.web, calls=args.calls,
            )  # fmt: skip
            code = run.start()
        if code == 2:
            print("Locust ended before it had measured anything.", file=sys.stderr)
        else:
            print(f"Reports: {os.path.relpath(out)}/ (summary.csv, summary.json, locust_stats.csv, locust.html)")
        sys.exit(code)


if __name__ == "__main__":
    main()
