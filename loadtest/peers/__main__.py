"""Benchmarks against peers on the same weights, in alternating rounds.

    python -m loadtest.peers [SUITE ...] [--rounds 5] [--quick] [--out docs/performance.md]

Suites: generation embedding hop search rag growth cost; all of them where none is named. It starts a cluster of
its own on free ports and each peer as a process of its own, and writes each suite's part of the document (between
markers; the rest of the file stays) and its plots beside it. Everything that it started ends with it.
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
from typing import Any

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


def ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    args = parsed()
    signal.signal(signal.SIGTERM, ended)
    setup.packages()
    setup.environments()
    checkpoint = setup.generator(args.generator)
    models = setup.models(checkpoint)
    about = {
        "date": time.strftime("%Y-%m-%d"), "rounds": args.rounds, "threads": args.threads, "quick": args.quick,
        "command": shlex.join(["python", "-m", "loadtest.peers", *sys.argv[1:]]),
        "machine": machine.describe(), "versions": machine.versions(),
    }  # fmt: skip
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="genmesh-peers-") as folder:
        print("starting the cluster", flush=True)
        with started(Path(folder), models) as (cluster, key):
            bench = Bench(cluster, key, checkpoint, setup.OWN / "logs", args.rounds, args.quick, args.threads)
            for name in args.suites:
                print(name, flush=True)
                begun, load = time.monotonic(), os.getloadavg()[0]
                found = asyncio.run(importlib.import_module(f"loadtest.peers.{name}").run(bench))
                found["about"] = about | {"seconds": round(time.monotonic() - begun), "load_before": load}
                results[name] = found
                report.write(name, found, args.out)
        plotted = Path(folder) / "results.json"
        plotted.write_text(json.dumps(results))
        subprocess.run([setup.PEERS_PYTHON, setup.HERE / "plots.py", plotted, args.out.parent], check=True)
    if "cost" in args.suites:  # what loadtest/scale.py multiplies
        figures = args.out.parent / "figures" / "cost.json"
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(results["cost"], indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; everything that was started has ended.")
