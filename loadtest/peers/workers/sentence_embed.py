"""sentence-transformers, torch in float32.

python sentence_embed.py FOLDER THREADS CONTEXT_TOKENS   (in the peers' environment)
"""

from __future__ import annotations

import sys
import time

import torch
from protocol import serve
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(sys.argv[2]))
model = SentenceTransformer(sys.argv[1], device="cpu")
model.max_seq_length = int(sys.argv[3])


def embed(texts: list[str]) -> list[list[float]]:
    rows: list[list[float]] = model.encode(texts, batch_size=32, normalize_embeddings=True).tolist()
    return rows


def seconds(texts: list[str]) -> float:
    begun = time.monotonic()
    model.encode(texts, batch_size=32, normalize_embeddings=True)
    return time.monotonic() - begun


serve({"embed": embed, "seconds": seconds})
