"""What Genmesh's cost does as work grows: prompt, output, concurrency, collection, tenants."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import yaml
from genmesh.aio import Client
from genmesh.errors import GenmeshError

from deploy.local.cluster import available_memory_mib
from loadtest.peers import search
from loadtest.peers.cluster import TENANT, Bench
from loadtest.peers.generation import Genmesh, Outcome
from loadtest.peers.processes import Processes, Worker
from loadtest.peers.rounds import exponent, growth, quantile
from loadtest.peers.workload import Prompts
from services.vector_search.store import Store

Measure = Callable[[int, int], Awaitable[float]]
KEYS_READ_AGAIN_SECONDS = 2.5
LEAST_MEMORY_MIB = 4000
VECTOR_MIB = 384 * 4 / 2**20
# Milvus Lite's copies of a vector beside the vector itself (index, log, what a flush holds), generously.
COPIES = 8


async def curve(name: str, of: str, unit: str, sizes: Sequence[int], measure: Measure, rounds: int) -> dict[str, Any]:
    """``measure(size, round)``; sizes in changing order. The growth is fitted over all sizes and over the upper half."""
    print(f"  {name}: {', '.join(map(str, sizes))}", flush=True)
    values: dict[int, list[float]] = {size: [] for size in sizes}
    await measure(sizes[0], rounds)
    for turn in range(rounds):
        for size in sizes if turn % 2 == 0 else sizes[::-1]:
            values[size].append(await measure(size, turn))
    return fitted(name, of, unit, values)


def fitted(name: str, of: str, unit: str, values: dict[int, list[float]]) -> dict[str, Any]:
    sizes = list(values)
    middle = [statistics.median(values[size]) for size in sizes]
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    slope, tail = exponent(sizes, middle), exponent(sizes[half:], middle[half:])
    return {"name": name, "of": of, "unit": unit, "sizes": sizes, "values": list(values.values()), "exponent": slope,
            "upper_exponent": tail, "growth": growth(tail)}  # fmt: skip


async def generation(bench: Bench, client: Client) -> list[dict[str, Any]]:
    prompts = Prompts(bench.checkpoint)
    seeds = iter(range(50_000, 10**9))
    context = prompts_limit(bench)

    async def outcome(tokens: int, new_tokens: int, clients: int) -> Outcome:
        made = prompts.make(next(seeds), clients, tokens)
        return await Genmesh(client, new_tokens).run(made, clients)

    async def by_prompt(size: int, turn: int) -> float:
        found = [await outcome(size, 2, 1) for _ in range(3)]
        return statistics.median(one.ttft[0] for one in found) * 1e3

    async def by_output(size: int, turn: int) -> float:
        return (await outcome(32, size, 1)).seconds

    async def by_clients(size: int, turn: int) -> float:
        return (await outcome(64, 32, size)).seconds

    lengths = (
        [32, 64, 128] if bench.quick else [size for size in (32, 64, 128, 256, 512, 1024, 1536) if size < context - 64]
    )
    outputs = (
        [8, 16, 32] if bench.quick else [size for size in (16, 32, 64, 128, 256, 512, 1024) if size < context - 64]
    )
    clients = [1, 2, 4] if bench.quick else [1, 2, 4, 8, 16, 32, 64]
    return [
        await curve("time to first token", "prompt tokens", "ms", lengths, by_prompt, bench.rounds),
        await curve("one request", "output tokens", "s", outputs, by_output, bench.rounds),
        await curve("all requests at once", "clients (32 tokens each)", "s", clients, by_clients, bench.rounds),
    ]


def prompts_limit(bench: Bench) -> int:
    """The generator's context in tokens."""
    card = yaml.safe_load((bench.models / "generator" / "model.json").read_text())
    return int(card["context_tokens"])


async def collection(bench: Bench, client: Client, milvus: Worker) -> tuple[list[dict[str, Any]], str]:
    """Search in a collection that grows in place, until memory or a deadline ends it, and why it ended; rows go in by
    pymilvus."""
    name, count = "peers-growth", 10 if bench.quick else 100
    physical = Store.physical(TENANT, name)
    steps = [500, 1000, 2000] if bench.quick else [10_000, 30_000, 100_000, 300_000, 1_000_000]
    searches: dict[int, list[float]] = {}
    inserts: dict[int, list[float]] = {}
    there, ended = 0, ""
    await search.create(client, name)
    try:
        for size in steps:
            if available_memory_mib() - (size - there) * VECTOR_MIB * COPIES < LEAST_MEMORY_MIB:
                ended = f"{size:,} vectors were not tried: too little memory"
                break
            try:
                seconds = await milvus.call(
                    "insert", collection=physical, first=there, count=size - there, dimension=search.DIMENSION
                )
                await search.through_genmesh(client, name, search.queries(9, 3), 1)
                found = []
                for turn in range(bench.rounds):
                    _, took, _ = await search.through_genmesh(client, name, search.queries(500 + turn, count), 1)
                    found.append(quantile(took, 0.5) * 1e3)
            except (GenmeshError, RuntimeError) as failure:
                ended = f"at {size:,} vectors: {str(failure).splitlines()[0]}"
                break
            inserts[size], searches[size] = [seconds / (size - there) * 1e6], found
            there = size
            print(f"  {size} vectors: search {statistics.median(found):.1f} ms", flush=True)
    finally:
        with contextlib.suppress(GenmeshError):
            await client.vector_search.DeleteCollection({"collection": name})
    if ended:
        print(f"  {ended}", flush=True)
    curves = [
        fitted("search in a collection", "vectors", "ms", searches),
        fitted("inserting one vector (pymilvus)", "vectors afterwards", "µs", inserts),
    ]
    return curves, ended


async def tenants(bench: Bench, client: Client, milvus: Worker) -> list[dict[str, Any]]:
    """Calls and searches of one tenant among many, each with a key and a collection of its own."""
    steps = [1, 3, 9] if bench.quick else [1, 10, 30, 100]
    vectors, count, name = 200, 30 if bench.quick else 200, "peers-tenant"
    own: list[tuple[str, str]] = [(TENANT, bench.key)]
    counting: dict[int, list[float]] = {}
    searching: dict[int, list[float]] = {}
    draw = random.Random(4)

    async def add(tenant: str, key: str) -> None:
        async with Client(bench.cluster.target, api_key=key) as its:
            await search.create(its, name)
        physical = Store.physical(tenant, name)
        await milvus.call("insert", collection=physical, first=0, count=vectors, dimension=search.DIMENSION)

    await add(*own[0])
    try:
        for size in steps:
            new = [(f"tenant-{number}", "gm_" + secrets.token_urlsafe(24)) for number in range(len(own), size)]
            for tenant, key in new:
                bench.cluster.add_key(tenant, key)
            await asyncio.sleep(KEYS_READ_AGAIN_SECONDS)
            for tenant, key in new:
                await add(tenant, key)
            own += new
            counting[size], searching[size] = [], []
            clients = [Client(bench.cluster.target, api_key=key) for _, key in own]
            try:
                for _ in range(bench.rounds):
                    took, found = [], []
                    for _ in range(count):
                        its = draw.choice(clients)
                        took.append(await timed(its.tokenization.Count({"texts": ["a few words"]}, timeout=30)))
                        query = {
                            "collection": name,
                            "vectors": [{"values": search.queries(draw.getrandbits(30), 1)[0]}],
                            "limit": 10,
                        }
                        found.append(await timed(its.vector_search.Search(query, timeout=60)))
                    counting[size].append(quantile(took, 0.5) * 1e3)
                    searching[size].append(quantile(found, 0.5) * 1e3)
            finally:
                await asyncio.gather(*(one.close() for one in clients))
    finally:
        for _, key in own:
            async with Client(bench.cluster.target, api_key=key) as its:
                await its.vector_search.DeleteCollection({"collection": name})
    return [
        fitted("counting tokens, any tenant", "tenants with a key", "ms", counting),
        fitted("search, any tenant", "tenants with a collection", "ms", searching),
    ]


async def timed(call: Awaitable[object]) -> float:
    begun = asyncio.get_running_loop().time()
    await call
    return asyncio.get_running_loop().time() - begun


async def run(bench: Bench) -> dict[str, Any]:
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        curves = await generation(bench, client)
        milvus = await processes.start(search.direct(bench))
        curves += await tenants(bench, client, milvus)
        more, ended = await collection(bench, client, milvus)
    return {"curves": curves + more, "collection_ended": ended}
