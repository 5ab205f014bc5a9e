"""What one call costs each part: processor seconds, commands to Redis, connections; docs/scale.md multiplies it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from genmesh.aio import Client

from loadtest.peers.cluster import Bench
from loadtest.peers.processes import family, processor_seconds
from loadtest.peers.workload import retrieval

COLLECTION = "peers-cost"
CLIENTS = 4  # at a time
SAMPLING = {"max_tokens": 64, "ignore_eos": True}


def used(bench: Bench) -> dict[str, float]:
    """Processor seconds of each part so far, its children's too."""
    return {name: processor_seconds(family(state["pid"])) for name, state in bench.cluster.states().items()}


def memory(bench: Bench) -> dict[str, float]:
    """Proportional set size of each part, MiB."""
    sizes = {}
    for name, state in bench.cluster.states().items():
        lines = [
            line
            for process in family(state["pid"])
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        ]
        sizes[name] = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return sizes


async def run(bench: Bench) -> dict[str, Any]:
    passages, asked = retrieval()
    texts = list(passages.values())
    seconds = 3.0 if bench.quick else 20.0
    async with Client(bench.cluster.target, api_key=bench.key) as client:
        documents = [
            {"collection": COLLECTION, "document": {"id": name, "text": text}} for name, text in passages.items()
        ]
        async for event in client.rag.Ingest(documents, timeout=600):
            assert not event.HasField("failed"), event.failed.message

        async def drained(stream: Any) -> None:
            async for _ in stream:
                pass

        async def chat(number: int) -> None:
            messages = [{"role": "user", "content": f"{number} {texts[number % len(texts)]}"}]
            await drained(client.generation.StreamChat({"messages": messages, "sampling": SAMPLING}, timeout=120))

        async def answer(number: int) -> None:
            question = str(asked[number % len(asked)]["text"]) + "?" * (number // len(asked))
            await drained(client.rag.StreamAnswer({"collection": COLLECTION, "question": question}, timeout=120))

        async def embed(number: int) -> None:
            await client.embedding.Embed({"inputs": [f"{number} {texts[number % len(texts)]}"]}, timeout=60)

        async def search(number: int) -> None:
            vector = [float((number * 31 + i * 17) % 97) - 48 for i in range(384)]
            await client.vector_search.Search({"collection": COLLECTION, "vectors": [{"values": vector}]}, timeout=60)

        async def image(number: int) -> None:
            request = {"prompt": f"a red circle {number}", "seed": number, "steps": 20}
            await client.diffusion.GenerateImage(request, timeout=120)

        store = redis.from_url(f"redis://127.0.0.1:{bench.port('redis')}")
        operations: dict[str, Callable[[int], Awaitable[None]]] = {
            "answer": answer, "chat": chat, "embed": embed, "search": search, "image": image,
        }  # fmt: skip
        found: dict[str, Any] = {}
        for name, call in operations.items():
            found[name] = await measured(bench, store, call, seconds)
        connections = (await store.info("clients"))["connected_clients"]
        await store.aclose()
        await client.vector_search.DeleteCollection({"collection": COLLECTION})
    return {"operations": found, "memory": memory(bench), "redis_connections": connections, "clients": CLIENTS,
            "output_tokens": SAMPLING["max_tokens"]}  # fmt: skip


async def measured(
    bench: Bench, store: redis.Redis, call: Callable[[int], Awaitable[None]], seconds: float
) -> dict[str, Any]:
    """Closed loop for a while: calls a second, and of one call its time, processor seconds and commands to Redis."""
    numbers, took = iter(range(10**9)), []
    for _ in range(CLIENTS):
        await call(next(numbers))
    before, commands = used(bench), (await store.info("stats"))["total_commands_processed"]
    begun = time.monotonic()

    async def one() -> None:
        while time.monotonic() - begun < seconds:
            sent = time.monotonic()
            await call(next(numbers))
            took.append(time.monotonic() - sent)

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    elapsed, calls = time.monotonic() - begun, len(took)
    commands = (await store.info("stats"))["total_commands_processed"] - commands
    after = used(bench)
    return {
        "calls": calls, "calls_per_second": calls / elapsed, "seconds": sum(took) / calls,
        "redis_commands": commands / calls,
        "processor": {name: (after[name] - before[name]) / calls for name in after},
    }  # fmt: skip
