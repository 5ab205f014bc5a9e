"""python -m loadtest.fairness: how long small calls take beside another client's largest ones.

One client sends the largest request that a method allows, the next as soon as the last is answered, or refused; another
sends small ones to the same service at an even rate all the while. A call is timed from when it was due. Starts a cluster of
its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from genmesh.aio import Client
from genmesh.errors import GenmeshError

from loadtest.peers.cluster import started

ROOT = Path(__file__).resolve().parents[1]
EVERY_SECONDS = 0.02
WORDS = "The keeper of the old mill counts boats and writes the figures down. "


def numbered(texts: list[str]) -> list[str]:
    """Texts that no cache has."""
    return [secrets.token_hex(8) + text for text in texts]


def text(characters: int) -> str:
    return (WORDS * (characters // len(WORDS) + 1))[:characters]


Call = Callable[[Client], Any]


def heavy() -> dict[str, tuple[Call, Call]]:
    """What is sent: (the largest request, a small one to the same service)."""
    texts = [text(190_000)] * 40
    paragraphs = "\n\n".join(f"## Part {i}\n\n{text(400)}" for i in range(3000))
    passages = [
        {
            "id": str(i),
            "vector": [float(j) for j in range(1, 301)],
            "text": text(1000),
            "metadata": {"n": i, "t": text(200)},
        }
        for i in range(1000)
    ]

    def count(client: Client) -> Any:
        return client.tokenization.Count({"texts": ["a"]}, timeout=60)

    def search(client: Client) -> Any:
        return client.vector_search.Search({"collection": "small", "vectors": [{"values": [1, 0]}]}, timeout=60)

    def missing(client: Client) -> Any:
        return client.rag.DeleteDocument({"collection": "small", "document_id": "none"}, timeout=60)

    def question(client: Client) -> Any:
        return client.embedding.Embed({"inputs": numbered(["How long is the river?"])}, timeout=60)

    def many(client: Client, *, bulk: bool) -> Any:
        return client.embedding.Embed({"inputs": numbered([text(400)] * 1024), "bulk": bulk}, timeout=120)

    return {
        "nothing": (lambda client: asyncio.sleep(1), count),
        "Encode": (lambda client: client.tokenization.Encode({"texts": texts}, timeout=120), count),
        "Encode with offsets": (
            lambda client: client.tokenization.Encode({"texts": [text(190_000)] * 5, "return_offsets": True}, timeout=120), count,
        ),
        "Count": (lambda client: client.tokenization.Count({"texts": numbered(texts)}, timeout=120), count),
        "Chunk": (lambda client: client.tokenization.Chunk({"text": text(1_000_000)}, timeout=120), count),
        "Upsert": (lambda client: client.vector_search.Upsert({"collection": "large", "entities": passages}, timeout=120), search),
        "Embed": (lambda client: many(client, bulk=False), question),
        "Embed in bulk": (lambda client: many(client, bulk=True), question),
        "Ingest": (lambda client: drain(client.rag.Ingest(one({"id": "large.md", "text": paragraphs}), timeout=120)), missing),
    }  # fmt: skip


async def one(document: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    yield {"collection": "documents", "document": document}


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


def send(target: str, key: str, name: str, ended: Any) -> None:
    """A process that sends the large requests."""

    async def work() -> None:
        large, _ = heavy()[name]
        async with Client(target, api_key=key) as client:
            while True:
                with suppress(GenmeshError):
                    await large(client)
                ended.value += 1

    asyncio.run(work())


async def beside(target: str, key: str, name: str, seconds: float) -> tuple[list[float], int]:
    """The seconds that each small call took, and how many large ones ended."""
    took: list[float] = []
    _, small = heavy()[name]
    spawn = multiprocessing.get_context("spawn")
    ended = spawn.Value("i", 0)
    sending = spawn.Process(target=send, args=(target, key, name, ended), daemon=True)
    sending.start()
    async with Client(target, api_key=key) as client:

        async def ask(due: float) -> None:
            with suppress(GenmeshError):  # the document that is not there
                await small(client)
            took.append(time.monotonic() - due)

        await asyncio.sleep(3)  # the process starts
        begun, calls = time.monotonic(), []
        for number in range(int(seconds / EVERY_SECONDS)):
            due = begun + number * EVERY_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*calls)
    sending.terminate()
    sending.join()
    return took, ended.value


async def prepare(target: str, key: str) -> None:
    """Make the collections that are written to and searched."""
    async with Client(target, api_key=key) as client:
        for name, dimension in (("large", 300), ("small", 2)):
            await client.vector_search.CreateCollection({"collection": {"name": name, "dimension": dimension}})
        await client.vector_search.Upsert({"collection": "small", "entities": [{"id": "a", "vector": [1, 0]}]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", nargs="*", help="beside these")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started(Path(folder), ROOT / ".state" / "models") as (cluster, key):
        asyncio.run(prepare(cluster.target, key))
        print(
            "| beside | small calls: median, ms | p99, ms | longest, ms | large calls |\n| --- | --- | --- | --- | --- |"
        )
        for name in wanted.only or heavy():
            took, ended = asyncio.run(beside(cluster.target, key, name, wanted.seconds))
            middle, high, most = (1000 * float(np.quantile(took, q)) for q in (0.5, 0.99, 1.0))
            print(f"| {name} | {middle:.1f} | {high:.0f} | {most:.0f} | {ended} |", flush=True)


if __name__ == "__main__":
    main()
