"""Infinity's engine in this process, torch in float32.

python infinity_embed.py FOLDER THREADS   (in Infinity's environment)
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import numpy as np
import torch
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
from protocol import serve

torch.set_num_threads(int(sys.argv[2]))
arguments = EngineArgs(
    model_name_or_path=sys.argv[1], engine="torch", device="cpu", dtype="float32", batch_size=32,
    bettertransformer=False, model_warmup=False,
)  # fmt: skip
engine = AsyncEmbeddingEngine.from_args(arguments)
loop = asyncio.new_event_loop()


def run(texts: list[str]) -> Any:
    vectors, _ = loop.run_until_complete(engine.embed(sentences=texts))
    return vectors


def embed(texts: list[str]) -> list[list[float]]:
    rows = np.asarray(run(texts), dtype=np.float32)
    found: list[list[float]] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).tolist()
    return found


def seconds(texts: list[str]) -> float:
    begun = time.monotonic()
    run(texts)
    return time.monotonic() - begun


loop.run_until_complete(engine.astart())
try:
    serve({"embed": embed, "seconds": seconds})
finally:
    loop.run_until_complete(engine.astop())
