"""python -m tests.smoke.load: two calls a second, in turn of each kind, until standard input ends.

Run as a client of the cluster (GENMESH_TARGET, GENMESH_API_KEY). Prints one JSON object for each call that ended: its
kind, whether it streams, its status ("OK" or the name of a gRPC code) and the reason. After the end of standard input no
call begins, and the program ends with the last call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from itertools import cycle

from genmesh.aio import Client
from genmesh.errors import GenmeshError

EVERY = 0.5  # seconds between two calls
MOST = 40  # calls at once: on a machine without processor time they would pile up
PATIENCE = 280  # seconds; ends a call that hangs

Call = Callable[[Client, int], Awaitable[object]]


async def count(client: Client, number: int) -> object:
    return await client.tokenization.Count({"texts": [f"How long is text number {number}?"]}, timeout=PATIENCE)


async def embed(client: Client, number: int) -> object:
    return await client.embedding.Embed({"inputs": [f"Ship number {number} is in the harbour."]}, timeout=PATIENCE)


def chat(number: int, tokens: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": f"Tell me story number {number} of the harbour."}],
        "sampling": {"max_tokens": tokens, "ignore_eos": True},
    }


async def answer(client: Client, number: int) -> object:
    return await client.generation.Chat(chat(number, 8), timeout=PATIENCE)


async def stream(client: Client, number: int) -> object:
    async for _ in client.generation.StreamChat(chat(number, 32), timeout=PATIENCE):
        pass
    return None


KINDS: dict[str, Call] = {"count": count, "embed": embed, "chat": answer, "stream": stream}


async def one(client: Client, kind: str, number: int) -> None:
    status, reason = "OK", ""
    try:
        await KINDS[kind](client, number)
    except GenmeshError as failure:
        status, reason = failure.code.name, f"{failure.reason} {failure.message}"
    print(json.dumps({"kind": kind, "stream": kind == "stream", "status": status, "reason": reason}), flush=True)


async def main() -> None:
    stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    async with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
        running: set[asyncio.Task[None]] = set()
        for number, kind in enumerate(cycle(KINDS)):
            await asyncio.wait({stop}, timeout=EVERY)
            if stop.done():
                break
            if len(running) < MOST:
                task = asyncio.create_task(one(client, kind, number))
                running.add(task)
                task.add_done_callback(running.discard)
        await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(main())
