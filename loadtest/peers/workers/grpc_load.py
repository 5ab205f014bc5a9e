"""Unary gRPC load: the same bytes again and again.

python grpc_load.py   (in the project's environment)
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import grpc
from protocol import serve

ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'
loop = asyncio.new_event_loop()


async def _measure(
    target: str, path: str, request: bytes, metadata: tuple[tuple[str, str], ...], clients: int, seconds: float
) -> dict[str, Any]:
    took: list[float] = []
    # Channels with the same arguments would share a connection; a subchannel pool of its own keeps runs apart.
    options = [("grpc.service_config", ROUND_ROBIN), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = channel.unary_unary(path)
        for _ in range(20):
            await call(request, metadata=metadata, timeout=30)
        begun = time.perf_counter()
        until = begun + seconds

        async def client() -> None:
            while (now := time.perf_counter()) < until:
                await call(request, metadata=metadata, timeout=30)
                took.append(time.perf_counter() - now)

        await asyncio.gather(*(client() for _ in range(clients)))
        spent = time.perf_counter() - begun
    took.sort()
    return {
        "calls": len(took),
        "seconds": spent,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p95_ms": took[int(len(took) * 0.95)] * 1e3,
    }


def measure(
    target: str, path: str, request: str, metadata: list[list[str]], clients: int, seconds: float
) -> dict[str, Any]:
    """``request`` in base64; calls, seconds, and latencies in ms."""
    pairs = tuple((key, value) for key, value in metadata)
    return loop.run_until_complete(_measure(target, path, base64.b64decode(request), pairs, clients, seconds))


serve({"measure": measure})
