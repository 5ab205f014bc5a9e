"""llama.cpp's server, and a client that sends token ids and reads its stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from deploy.local.ports import free_port
from loadtest.peers.processes import HOST, Server

SLOTS = 64


def server(program: Path, weights: Path, threads: int, slot_tokens: int, log: Path) -> Server:
    """``slot_tokens``: context of each of the 64 slots."""
    port = free_port()
    command = [str(program), "--model", str(weights), "--host", HOST, "--port", str(port), "--parallel", str(SLOTS),
               "--ctx-size", str(SLOTS * slot_tokens), "--threads", str(threads), "--threads-batch", str(threads),
               "--cont-batching", "--no-webui"]  # fmt: skip
    return Server(command, log, port)


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events of a chunked HTTP response."""
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"llama-server answers {status.decode().strip()}: {(await reader.read(2000)).decode()}")
    while (await reader.readline()).strip():
        pass
    rest = b""
    while size := int((await reader.readline()).strip(), 16):
        rest += await reader.readexactly(size)
        await reader.readexactly(2)
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


async def complete(port: int, ids: list[int], new_tokens: int) -> tuple[float, list[int]]:
    """Seconds to the first token, and the tokens; greedy, end tokens ignored."""
    body = json.dumps({
        "prompt": ids, "n_predict": new_tokens, "ignore_eos": True, "temperature": 0, "top_k": 1, "samplers": ["top_k"],
        "stream": True, "return_tokens": True, "cache_prompt": True,
    }).encode()  # fmt: skip
    begun, first = time.monotonic(), 0.0
    tokens: list[int] = []
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        head = f"POST /completion HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        async for event in _events(reader):
            if "error" in event:
                raise RuntimeError(f"llama-server: {event['error']}")
            if event.get("stop"):
                break
            tokens += event.get("tokens", [])
            if tokens:
                first = first or time.monotonic() - begun
    finally:
        writer.close()
    return first, tokens


async def ready(port: int) -> None:
    """Return once the weights are loaded."""
    deadline = time.monotonic() + 120
    while True:
        try:
            await complete(port, [1], 1)
            return
        except (OSError, RuntimeError, ValueError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
