"""Scores of (query, passage) pairs, as a built reranker's card says; the build copies it beside each ``model.py``.

``scoring`` is one of:

- ``late-interaction`` (MaxSim, Khattab & Zaharia 2020): the mean, over the query's tokens, of the greatest cosine
  with any token of the passage, -1 to 1. Special tokens take no part. The encoder's rows are token vectors of unit
  length.
- ``cross-encoder``: the network reads query and passage as one text; its row is the score, 0 to 1.
- ``corrected``: late interaction ranks all of a query's passages; of the best ``corrected_passages`` a cross-encoder
  (its row is a logit) corrects the score by ``correction_weight`` times its own. The others are corrected as the worst
  of these, so that none overtakes what was read more closely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Pair = tuple[str, str]
SCORINGS = ("late-interaction", "cross-encoder", "corrected")


class Ranker:
    """``encoder`` and, where scores are corrected, ``corrector`` have ``encode(texts)`` and ``run(encodings)``."""

    def __init__(self, card: dict[str, Any], encoder: Any, corrector: Any = None) -> None:
        self.encoder, self.corrector = encoder, corrector
        self.passages: int = card.get("corrected_passages", 0)
        self.weight = np.float32(card.get("correction_weight", 0))
        self.scoring: str = card["scoring"]
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring {self.scoring!r} is not known")

    def score(self, pairs: Sequence[Pair], owners: Sequence[int] | None = None) -> np.ndarray:
        """float32 (pairs,); ``owners``: the request that each pair is of, so that none's scores depend on another's."""
        if self.scoring == "cross-encoder":
            return self.crossed(pairs)
        if self.scoring == "late-interaction":
            return self.late_interaction(pairs)
        return self.corrected(pairs, owners or [0] * len(pairs))

    def late_interaction(self, pairs: Sequence[Pair]) -> np.ndarray:
        """float32 (pairs,)."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        encodings = self.encoder.encode(texts)
        vectors = {}
        for text, encoding, row in zip(texts, encodings, self.encoder.run(encodings), strict=True):
            length = min(len(encoding.ids), self.encoder.max_tokens)  # a batch's rows are as long as its longest
            vectors[text] = row[slice(1, length - 1) if length > 2 else slice(0, length)]
        return np.array([(vectors[q] @ vectors[p].T).max(axis=1).mean() for q, p in pairs], np.float32)

    def crossed(self, pairs: Sequence[Pair], encoder: Any = None) -> np.ndarray:
        """The network's row of each pair, float32 (pairs,)."""
        encoder = encoder or self.encoder
        return np.array([row[0] for row in encoder.run(encoder.encode(pairs))], np.float32)

    def corrected(self, pairs: Sequence[Pair], owners: Sequence[int]) -> np.ndarray:
        """float32 (pairs,)."""
        scores = self.late_interaction(pairs)
        asked: dict[tuple[int, str], list[int]] = {}
        for index, (owner, (query, _)) in enumerate(zip(owners, pairs, strict=True)):
            asked.setdefault((owner, query), []).append(index)
        close = {
            query: np.array(indexes)[np.argsort(-scores[indexes], kind="stable")[: self.passages]]
            for query, indexes in asked.items()
        }
        read = [int(index) for indexes in close.values() for index in indexes]
        logits = np.full(len(pairs), np.nan, np.float32)
        logits[read] = self.crossed([pairs[index] for index in read], self.corrector)
        for query, indexes in asked.items():
            logits[indexes] = np.where(np.isnan(logits[indexes]), logits[close[query]].min(), logits[indexes])
        return scores + self.weight * logits
