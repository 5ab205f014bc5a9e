"""python -m deploy.local up|down|status|logs|triton: the one-machine cluster (what `make up` and its siblings run)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from deploy.local.cluster import Cluster, ClusterError, saved_ports
from deploy.local.ports import SERVICES, Ports
from deploy.local.processes import HOST, ROOT, Layout

SAMPLES = Path(__file__).parent / "samples"
QUESTION = "How long are audit logs kept?"
PICTURE = "a red circle"


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def genmesh(arguments: list[str], target: str, key: str) -> None:
    """Run the genmesh command as a user would."""
    command = [str(Path(sys.executable).parent / "genmesh"), *arguments]
    print(f"\n$ genmesh {' '.join(a if ' ' not in a else repr(a) for a in arguments)}", flush=True)
    environment = os.environ | {"GENMESH_TARGET": target, "GENMESH_API_KEY": key}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise ClusterError(f"`genmesh {arguments[0]}` failed; `make logs` tells why.")


def up(cluster: Cluster) -> None:
    print("Starting the cluster", flush=True)
    cluster.start(say)
    key, target = cluster.development_key(), cluster.target
    picture = cluster.layout.state / "first-image.png"
    genmesh(["ingest", os.path.relpath(SAMPLES)], target, key)
    genmesh(["ask", QUESTION], target, key)
    genmesh(["chat", "Hello!"], target, key)
    genmesh(["image", PICTURE, "--upscale", "--output", os.path.relpath(picture)], target, key)
    ports = cluster.ports
    print("\nGenmesh is up.\n")
    rows = [("gateway (gRPC)", target)]
    rows += [
        (name, f"{HOST}:{ports[name]}   metrics http://{HOST}:{ports[f'metrics_{name}']}/metrics")
        for name in SERVICES[1:]
    ]
    rows += [
        ("status page", f"http://{HOST}:{ports['status']}/"),
        ("gateway metrics", f"http://{HOST}:{ports['metrics_gateway']}/metrics"),
        ("Triton", f"{HOST}:{ports['triton']}   metrics http://{HOST}:{ports['triton_metrics']}/metrics"),
        ("Redis", f"{HOST}:{ports['redis']}"),
        ("Milvus", f"http://{HOST}:{ports['milvus']}"),
        ("Prometheus", f"http://{HOST}:{ports['prometheus']}"),
    ]
    for name, place in rows:
        print(f"  {name:<16} {place}")
    command = os.path.relpath(Path(sys.executable).parent / "genmesh", ROOT)
    print(f"""
Development key (tenant "dev"): {key}

Try next:
  export GENMESH_TARGET={target} GENMESH_API_KEY={key}
  {command} ask "Who planted the Hollin Orchard?"
  {command} search "How much fuel can be stored?"
  {command} image "a blue star" --output star.png
  {command} models
  make status, make logs, make down""")


def logs(cluster: Cluster, name: str | None, lines: int) -> None:
    files = sorted(cluster.layout.logs.glob(f"{name or '*'}.log"))
    if not files:
        raise ClusterError(f"There is no log of {name}." if name else "There are no logs yet; run `make up`.")
    for file in files:
        print(f"==> {file.stem} <==")
        for line in file.read_text(errors="replace").splitlines()[-lines:]:
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.local", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status", "logs", "triton"])
    parser.add_argument("name", nargs="?", help="logs: one part")
    parser.add_argument("--state", type=Path, default=ROOT / ".state")
    parser.add_argument("--triton-python", type=Path, default=ROOT / ".state" / "venv" / "triton" / "bin" / "python")
    parser.add_argument("--port-offset", type=int, default=0)
    parser.add_argument("--lines", type=int, default=10)
    args = parser.parse_args()
    layout = Layout(args.state.resolve(), args.state.resolve() / "models", args.triton_python.absolute())
    ports = (
        Ports.fixed(args.port_offset) if args.action == "up" else saved_ports(layout) or Ports.fixed(args.port_offset)
    )
    cluster = Cluster(layout, ports)
    try:
        if args.action == "up":
            up(cluster)
        elif args.action == "down":
            cluster.stop()
            print("Genmesh is down.")
        elif args.action == "status":
            states = cluster.status()
            for name, state in states.items():
                print(f"  {name:<14} {state}")
            if any(state != "ready" for state in states.values()):
                sys.exit(1)
        elif args.action == "triton":
            # For `make models`: nothing where no cluster runs.
            print(f"--triton {HOST}:{cluster.ports['triton']}" if cluster.running() else "")
        else:
            logs(cluster, args.name, args.lines)
    except ClusterError as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


main()
