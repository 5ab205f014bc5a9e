"""Search: through Genmesh's vector_search, and pymilvus directly on the same server and collection."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from genmesh.aio import Client

from loadtest.peers import setup
from loadtest.peers.cluster import TENANT, Bench
from loadtest.peers.processes import HOST, Processes, Worker
from loadtest.peers.rounds import Contender, Metrics, alternate, quantile
from services.vector_search.store import Store

DIMENSION, LIMIT = 384, 10
COLLECTION = "peers-search"


def queries(seed: int, count: int) -> list[list[float]]:
    draw = random.Random(seed)
    return [[draw.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(count)]


def direct(bench: Bench) -> Worker:
    """pymilvus in a process of its own."""
    command = [sys.executable, str(setup.WORKERS / "milvus_direct.py"), f"http://{HOST}:{bench.port('milvus')}"]
    return Worker(command, bench.logs / "milvus-direct.log")


async def create(client: Client, name: str = COLLECTION) -> None:
    await client.vector_search.CreateCollection(
        {"collection": {"name": name, "dimension": DIMENSION, "metric": "METRIC_COSINE"}}
    )


async def through_genmesh(
    client: Client, name: str, asked: Sequence[list[float]], clients: int
) -> tuple[float, list[float], list[list[str]]]:
    """Queries one a call; seconds, each call's latency in seconds, and the ids found."""
    waiting = list(range(len(asked)))[::-1]
    took, ids = [0.0] * len(asked), [[""]] * len(asked)

    async def one() -> None:
        while waiting:
            index = waiting.pop()
            begun = time.monotonic()
            answer = await client.vector_search.Search(
                {"collection": name, "vectors": [{"values": asked[index]}], "limit": LIMIT}, timeout=60
            )
            took[index] = time.monotonic() - begun
            ids[index] = [hit.entity.id for hit in answer.results[0].hits]

    begun = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    return time.monotonic() - begun, took, ids


async def run(bench: Bench) -> dict[str, Any]:
    size, count = (2000, 20) if bench.quick else (20_000, 200)
    physical = Store.physical(TENANT, COLLECTION)
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        milvus = await processes.start(direct(bench))
        await create(client)
        try:
            await milvus.call("insert", collection=physical, first=0, count=size, dimension=DIMENSION)
            asked = queries(1, count)
            _, _, ours = await through_genmesh(client, COLLECTION, asked, 1)
            theirs = (await milvus.call("search", collection=physical, queries=asked, clients=1, limit=LIMIT))["ids"]
            same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / count

            def contender(clients: int, *, genmesh: bool) -> Contender:
                async def once(turn: int) -> Metrics:
                    asked = queries(100 + turn, count)
                    if genmesh:
                        seconds, took, _ = await through_genmesh(client, COLLECTION, asked, clients)
                    else:
                        found = await milvus.call(
                            "search", collection=physical, queries=asked, clients=clients, limit=LIMIT
                        )
                        seconds, took = found["seconds"], found["took"]
                    return {"queries_per_second": count / seconds, "p50_ms": quantile(took, 0.5) * 1e3,
                            "p95_ms": quantile(took, 0.95) * 1e3}  # fmt: skip

                return once

            cells = [
                {"clients": clients, "samples": await alternate(
                    {"genmesh": contender(clients, genmesh=True), "pymilvus": contender(clients, genmesh=False)}, bench.rounds
                )}
                for clients in (1, 8)
            ]  # fmt: skip
        finally:
            await client.vector_search.DeleteCollection({"collection": COLLECTION})
    return {"cells": cells, "size": size, "dimension": DIMENSION, "limit": LIMIT, "same_ids": same}
