"""How many pods of each kind carry how many users, and what breaks first: arithmetic over measured figures.

    python -m loadtest.scale [--write docs/scale.md]

It reads docs/figures/cost.json (`python -m loadtest.peers cost`: what one call costs each part) and
docs/figures/simulated.json (`tests/cluster/test_7_simulated.py`: what an upgrade sends to watchers), and replaces what
stands between the markers of the document.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
BEGIN, END = "<!-- scale:begin (written by python -m loadtest.scale) -->", "<!-- scale:end -->"
USERS = (100, 10_000, 1_000_000)
# Calls a minute of one user at the busiest time.
HABITS = {"answer": 0.5, "chat": 0.25, "search": 0.5, "embed": 0.25, "image": 0.05}
SHARE = 0.6  # of a pod's cores that are busy at the busiest time: room for bursts and for a pod that is gone
# Cores of one pod: a Python service has one loop, Triton what its engine was measured with.
CORES = {"triton": 2}
LEAST = 2  # pods of each kind: one may go
USERS_A_TENANT, COLLECTIONS_A_TENANT = 50, 2
PARTS = ("gateway", "tokenization", "embedding", "vector_search", "generation", "diffusion", "rag", "triton")


@dataclass(frozen=True)
class Limit:
    """One thing of which there is only so much; ``source`` says whose figure that is."""

    name: str
    amount: float
    unit: str
    source: str
    then: str  # what to set when it is reached


LIMITS = {
    "redis": Limit("Redis, one process", SHARE, "cores", "cost of a call, measured", "a Redis with more threads"),
    "redis_clients": Limit(
        "connections to Redis", 10_000, "connections", "Redis' default `maxclients`", "`maxclients`, or a pooling proxy"
    ),
    "milvus": Limit(
        "Milvus Lite, one process",
        SHARE,
        "cores",
        "cost of a call, measured",
        "`milvus.enabled: false`, a Milvus cluster",
    ),
    "collections": Limit(
        "collections in Milvus, each of one partition and one shard",
        65_536,
        "of all three multiplied",
        "a Milvus cluster's `rootCoord.maxGeneralCapacity`",
        "several releases, tenants divided",
    ),
    "dns": Limit(
        "addresses of Triton in one DNS answer",
        65_535 // 16,
        "addresses",
        "64 KiB of a message over TCP, 16 bytes a record",
        "several releases",
    ),
    "watch": Limit(
        "endpoint updates of an upgrade",
        100e6,
        "bytes to each watcher",
        "simulated; a bound of ours",
        "larger pods, fewer of them",
    ),
    "gateway_cpu": Limit(
        "gateway, one process", SHARE, "cores", "cost of a call, measured", "more gateways: they scale on it"
    ),
    "gateway": Limit(
        "gateways behind one load balancer", 1_000, "pods", "a cloud load balancer's targets", "several, divided by DNS"
    ),
}


def rates(users: int) -> dict[str, float]:
    """Calls a second by operation."""
    return {name: users * minute / 60 for name, minute in HABITS.items()}


def cores(cost: dict[str, Any], users: int) -> dict[str, float]:
    """Processor seconds a second by part: the sum over operations of rate times cost."""
    total = dict.fromkeys((*PARTS, "redis", "milvus"), 0.0)
    for name, rate in rates(users).items():
        for part, seconds in cost["operations"][name]["processor"].items():
            if part in total:
                total[part] += rate * seconds
    return total


def pods(needed: dict[str, float]) -> dict[str, int]:
    """Pods by part, each at most ``SHARE`` busy."""
    return {part: max(LEAST, math.ceil(needed[part] / (SHARE * CORES.get(part, 1)))) for part in PARTS}


def streams(cost: dict[str, Any], users: int) -> float:
    """Calls in flight, by Little's law: rate times duration."""
    return float(sum(rate * cost["operations"][name]["seconds"] for name, rate in rates(users).items()))


def loads(cost: dict[str, Any], simulated: dict[str, Any] | None, users: int) -> dict[str, float]:
    """How much of each limit is used."""
    needed = cores(cost, users)
    count = pods(needed)
    # Tokenization and embedding use Redis; where it was counted, one process of each, and the count's own connection.
    a_process = (cost["redis_connections"] - 1) / 2
    found = {
        "redis": needed["redis"],
        "redis_clients": (count["tokenization"] + count["embedding"]) * a_process,
        "milvus": needed["milvus"],
        "collections": users / USERS_A_TENANT * COLLECTIONS_A_TENANT,
        "dns": count["triton"],
        "gateway_cpu": needed["gateway"],
        "gateway": count["gateway"],
    }
    if simulated is not None:
        # The simulated upgrade replaced two deployments; an update carries the slice that changed.
        found["watch"] = sum(count.values()) * simulated["watch_bytes"] / (2 * simulated["replicas"])
    return found


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(cost: dict[str, Any], simulated: dict[str, Any] | None) -> str:
    habits = ", ".join(f"{name} {minute:g}" for name, minute in HABITS.items())
    heads = ["", *(f"{users:,} users" for users in USERS)]
    needed = [cores(cost, users) for users in USERS]
    counts = [pods(one) for one in needed]
    kinds = [[part.replace("_", "-"), *(f"{count[part]:,}" for count in counts)] for part in PARTS]
    kinds += [
        ["calls a second", *(number(sum(rates(users).values())) for users in USERS)],
        ["calls in flight", *(number(streams(cost, users)) for users in USERS)],
        ["cores busy, all parts", *(number(sum(one.values())) for one in needed)],
    ]
    used = [loads(cost, simulated, users) for users in USERS]
    broken = [
        [
            f"{limit.name} ({number(limit.amount)} {limit.unit}; {limit.source})",
            *(f"{number(one[key])}{' **over**' if one[key] > limit.amount else ''}" for one in used),
            number(USERS[0] * limit.amount / used[0][key])
            if key in ("redis", "milvus", "collections", "gateway_cpu")
            else "",
            limit.then,
        ]
        for key, limit in LIMITS.items()
        if key in used[0]
    ]
    simulation = "The upgrade at 500 replicas has not been measured: docs/figures/simulated.json is not there."
    if simulated is not None:
        simulation = (
            f"{simulated['nodes']:,} simulated nodes, {simulated['gpus']} with one GPU each, {simulated['replicas']} Tritons and "
            f"as many pods of generation: installed in {simulated['install_seconds']} s, upgraded in "
            f"{simulated['upgrade_seconds']} s with no GPU to spare (pods counted as available after "
            f"{simulated['available_after']} s). At least {simulated['least_ready']['triton']} Tritons were ready "
            f"meanwhile (their budget: {simulated['budget']}), and {simulated['least_ready']['generation']} of generation. Each of "
            f"{simulated['watchers']:.0f} watchers of endpoint slices got {simulated['watch_events']:,.0f} events, "
            f"{simulated['watch_bytes'] / 1e6:.1f} MB."
        )
    return f"""At the busiest time a user makes, a minute: {habits} calls. Pods are {SHARE:.0%} busy then.

{table(heads, kinds)}

{table([*heads[:1], *heads[1:], "users it carries", "what to set then"], broken)}

{simulation}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the document; printed where it is not given")
    args = parser.parse_args()
    simulated = FIGURES / "simulated.json"
    text = document(
        json.loads((FIGURES / "cost.json").read_text()),
        json.loads(simulated.read_text()) if simulated.exists() else None,
    )
    if args.write is None:
        print(text)
        return
    head, _, rest = args.write.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    args.write.write_text(f"{head}{BEGIN}\n{text}{END}{tail}")


if __name__ == "__main__":
    main()
