"""python -m deploy.cluster up|down|run|bring: the Kubernetes of `make cluster-up`, with Genmesh installed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from deploy.cluster import images
from deploy.cluster.cluster import NAMESPACE, ROOT, Cluster, NotReady


def up(cluster: Cluster) -> None:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - begun:5.1f} s  {text}", flush=True)

    print("Starting a control plane and two workers", flush=True)
    cluster.start(say)
    say("Genmesh's chart")
    cluster.install()
    say("ready")
    prefix = "scripts/in-cluster.sh"
    print(
        f"""
Genmesh serves at {cluster.target()} inside of the cluster's network, which nothing leads out of. Commands get there by
{prefix}, which also finds kubectl, helm and the cluster's credentials:

  {prefix} kubectl --namespace {NAMESPACE} get pods
  export GENMESH_TARGET={cluster.target()} GENMESH_API_KEY={cluster.key()}
  {prefix} genmesh ingest deploy/local/samples
  {prefix} genmesh ask "How long are audit logs kept?"
  {prefix} helm --namespace {NAMESPACE} test genmesh --logs
  make cluster-down"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".state" / "cluster")
    parser.add_argument("--tools", type=Path, default=ROOT / ".state" / "tools")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="start it and install the chart; anew where it runs")
    actions.add_parser("down", help="take everything away")
    actions.add_parser("run", help="run a command as a client of the cluster").add_argument(
        "command", nargs=argparse.REMAINDER
    )
    image = actions.add_parser("bring", help="give the nodes an image that scripts/images.sh built")
    image.add_argument("name", choices=["services", "triton-cpu", "milvus-lite"])
    image.add_argument("tag")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("Namespaces and control groups need root: run this as root.")
    cluster = Cluster(args.state, args.tools)
    try:
        if args.action == "up":
            up(cluster)
        elif args.action == "down":
            cluster.stop()
            # What a test left that was killed: tests/cluster/test_7_simulated.py, tests/smoke.
            for name in ("simulated", "smoke"):
                Cluster(args.state.parent / name, args.tools).stop()
        elif not cluster.running:
            sys.exit("No cluster runs; `make cluster-up` starts one.")
        elif args.action == "bring":
            name = f"genmesh/{args.name}:{args.tag}"
            found = images.archives({f"localhost/{name}": f"docker.io/{name}"})
            for worker in cluster.workers:
                cluster.bring(worker, found)
        else:
            command = [*cluster.outside(), *args.command]
            os.execvpe(command[0], command, cluster.environment())
    except (NotReady, RuntimeError, TimeoutError) as failure:
        sys.exit(f"{failure}\nLogs are in {cluster.state}/nodes/*/log.")


if __name__ == "__main__":
    main()
