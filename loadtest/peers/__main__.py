"""Benchmarks against peers on the same weights, in alternating rounds.

    python -m loadtest.peers [SUITE ...] [--rounds 5] [--quick] [--out docs/performance.md]

Suites: generation embedding hop search rag growth cost; all of them where none is named. It starts a cluster of
its own on free ports and each peer as a process of its own, and writes its part of the document (between
markers; the rest of the file stays), its plots beside it and what was measured in figures/peers.json. Everything
that it started ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.local.processes import ROOT
from loadtest.peers import machine, report, setup
from loadtest.peers.cluster import Bench, started

SUITES = ("generation", "embedding", "hop", "search", "rag", "growth", "cost")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="loadtest.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; writes nothing to docs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each contender")
    parser.add_argument("--generator", default="default", help="default, 110m, or a checkpoint's folder")
    args = parser.parse_args()
    if unknown := set(args.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    args.suites = [suite for suite in SUITES if suite in (args.suites or SUITES)]
    if args.quick:
        args.out = setup.OWN / "quick" / args.out.name
    return args


def kept_as(suite: str, generator: str) -> str:
    """A suite's name among the results: generation has one result a checkpoint."""
    other = suite == "generation" and generator != "default"
    return f"{suite} {Path(generator).name}" if other else suite


def ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    args = parsed()
    signal.signal(signal.SIGTERM, ended)
    setup.packages()
    setup.environments()
    checkpoint = setup.generator(args.generator)
    models = setup.models(checkpoint)
    # In the repository, so that a run of one suite leaves what others measured as it is.
    kept = args.out.parent / "figures" / "peers.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    if (
        not results
        and len(args.suites) < len(SUITES)
        and report.BEGIN in (args.out.read_text() if args.out.exists() else "")
    ):
        sys.exit(
            f"{args.out} has results of which {kept} is not there: a run of some suites would lose the others. Run all."
        )
    about = {
        "date": time.strftime("%Y-%m-%d"), "rounds": args.rounds, "threads": args.threads, "quick": args.quick,
        "command": shlex.join(["python", "-m", "loadtest.peers", *sys.argv[1:]]),
        "machine": machine.describe(), "versions": machine.versions(),
    }  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="genmesh-peers-") as folder:
        print("starting the cluster", flush=True)
        with started(Path(folder), models) as (cluster, key):
            bench = Bench(cluster, key, checkpoint, setup.OWN / "logs", args.rounds, args.quick, args.threads)
            for name in args.suites:
                print(name, flush=True)
                begun, load = time.monotonic(), os.getloadavg()[0]
                found = asyncio.run(importlib.import_module(f"loadtest.peers.{name}").run(bench))
                found["about"] = about | {"seconds": round(time.monotonic() - begun), "load_before": load}
                results[kept_as(name, args.generator)] = found
                kept.write_text(json.dumps(results, indent=1))
    subprocess.run([setup.PEERS_PYTHON, setup.HERE / "plots.py", kept, args.out.parent], check=True)
    report.write(results, args.out)
    if "cost" in args.suites:  # what loadtest/scale.py multiplies
        figures = kept.with_name("cost.json")
        figures.write_text(json.dumps(results["cost"], indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; everything that was started has ended.")
