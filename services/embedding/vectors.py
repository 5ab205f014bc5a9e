"""Vectors and scores from Triton, with the cache in front of the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.runtime import identity, tracing
from services.runtime.cache import Cache
from services.runtime.metrics import Embedding, Tenants
from services.runtime.models import Card
from services.runtime.triton import Triton, text_column
from services.runtime.work import together

# Texts in one request to Triton; its batcher joins requests, and replicas share the parts of a large call.
PART, BULK_PART = 128, 64
LAST = 2  # priority of what nobody waits for; see the embedder's config.pbtxt


@dataclass(frozen=True)
class Embedded:
    """A text's vector (float32, unit length) and its tokens before any cut."""

    vector: np.ndarray
    tokens: int
    cached: bool


def _embedded(entry: bytes, *, cached: bool) -> Embedded:
    return Embedded(np.frombuffer(entry, dtype="<f4", offset=4), int.from_bytes(entry[:4], "little"), cached)


class Vectors:
    def __init__(self, triton: Triton, cache: Cache, metrics: Embedding) -> None:
        self.triton, self.cache, self.metrics, self.tenants = triton, cache, metrics, Tenants()

    async def bulk(self, card: Card, texts: Sequence[str], timeout: float | None) -> list[Embedded]:
        """One result a text, after the texts of other calls, without the cache. One part at a time: a question waits for what
        the model has begun, which would be all of them."""
        entries = []
        for start in range(0, len(texts), BULK_PART):
            entries += await self._compute(card, texts[start : start + BULK_PART], timeout, LAST)
        return [_embedded(entry, cached=False) for entry in entries]

    async def embed(self, card: Card, texts: Sequence[str], timeout: float | None) -> tuple[list[Embedded], bool]:
        """One result a text, and whether the cache answered."""
        keys = [self.cache.key(card.revision, text) for text in texts]
        found, answered = await self.cache.get(keys)
        whole = 4 + 4 * card.facts["dimension"]
        found = [entry if entry is None or len(entry) == whole else None for entry in found]  # others are broken
        missing = [i for i, entry in enumerate(found) if entry is None]

        async def work(positions: list[int]) -> list[bytes]:
            return await self._compute(card, [texts[missing[p]] for p in positions], timeout)

        computed = iter(await self.cache.compute([keys[i] for i in missing], work))
        results = []
        for entry in found:
            data = next(computed) if entry is None else entry
            results.append(_embedded(data, cached=entry is not None))
        return results, answered

    async def _compute(self, card: Card, texts: Sequence[str], timeout: float | None, priority: int = 0) -> list[bytes]:
        """Each vector as the cache keeps it: the token count in 4 bytes, then float32, little-endian."""
        parts = [texts[i : i + PART] for i in range(0, len(texts), PART)]
        answers = await together(
            self.triton.infer(card, {"text": text_column(part)}, timeout, "embeddings", priority) for part in parts
        )
        entries, read = [], 0
        for part, answer in zip(parts, answers, strict=True):
            self.metrics.batch.labels(card.name).observe(len(part))
            vectors = np.asarray(answer.as_numpy("embedding"), dtype="<f4")
            for vector, tokens in zip(vectors, answer.as_numpy("token_count").reshape(-1), strict=True):
                entries.append(int(tokens).to_bytes(4, "little") + vector.tobytes())
                read += min(int(tokens), card.context_tokens)
        self.metrics.tokens.labels(card.name).inc(read)
        tracing.current().set_attribute(tracing.gen_ai.GEN_AI_USAGE_INPUT_TOKENS, read)
        self.metrics.tenant_tokens.labels(self.tenants.label(identity.current().tenant)).inc(read)
        return entries

    async def rerank(self, card: Card, query: str, passages: Sequence[str], timeout: float | None) -> np.ndarray:
        """The score of each passage, float32."""
        self.metrics.reranked.labels(card.name).inc(len(passages))
        answer = await self.triton.infer(
            card,
            {"query": text_column([query] * len(passages)), "passage": text_column(list(passages))},
            timeout,
            "rerank",
        )
        scores: np.ndarray = answer.as_numpy("score").reshape(-1)
        return scores
