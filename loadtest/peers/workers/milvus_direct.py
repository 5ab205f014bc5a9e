"""pymilvus directly on the server and the collection that Genmesh uses.

python milvus_direct.py URL   (in the project's environment)
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from protocol import serve
from pymilvus import MilvusClient

client = MilvusClient(sys.argv[1])
FIELDS = ["id", "text", "metadata"]


def vectors(seed: int, count: int, dimension: int) -> list[list[float]]:
    """Unit vectors, the same for the same seed."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    unit: list[list[float]] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).tolist()
    return unit


def insert(collection: str, first: int, count: int, dimension: int) -> float:
    """Rows ``first`` onwards, flushed; seconds."""
    begun = time.monotonic()
    for start in range(first, first + count, 1000):
        size = min(1000, first + count - start)
        rows = vectors(start, size, dimension)
        client.insert(
            collection,
            [{"id": f"{start + i:09d}", "vector": row, "text": "", "metadata": {}} for i, row in enumerate(rows)],
            timeout=600,
        )
    client.flush(collection, timeout=600)
    return time.monotonic() - begun


def search(collection: str, queries: list[list[float]], clients: int, limit: int) -> dict[str, Any]:
    """Queries one a call; seconds, each call's latency in seconds, and the ids found."""

    def one(query: list[float]) -> tuple[float, list[str]]:
        begun = time.monotonic()
        found = client.search(
            collection, [query], anns_field="vector", limit=limit, output_fields=FIELDS,
            search_params={"params": {"ef": max(64, limit)}}, timeout=60,
        )  # fmt: skip
        return time.monotonic() - begun, [hit["id"] for hit in found[0]]

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(one, queries))
    return {
        "seconds": time.monotonic() - begun,
        "took": [took for took, _ in results],
        "ids": [ids for _, ids in results],
    }


serve({"insert": insert, "search": search})
