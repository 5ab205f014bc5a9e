"""Scores of (query, passage) pairs, as a built reranker's card says; the build copies it beside each ``model.py``.

``scoring`` is one of:

- ``late-interaction`` (MaxSim, Khattab & Zaharia 2020): the mean, over the query's tokens, of the greatest cosine
  with any token of the passage, -1 to 1. Special tokens take no part. The encoder's rows are token vectors of unit
  length. With a part ``colbert`` the card says what that model does to tokens: a marker after the first token tells
  queries from passages, queries are filled up (or cut) to ``query_tokens``, all tokens take part but the passages'
  ``skipped``.
- ``cross-encoder``: the network reads query and passage as one text; its row is the score, 0 to 1.
- ``corrected``: late interaction ranks all of a query's passages; of the best ``corrected_passages`` a cross-encoder
  (its row is a logit) corrects the score by ``correction_weight`` times its own. The others are corrected as the worst
  of these, so that none overtakes what was read more closely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[str, str]
SCORINGS = ("late-interaction", "cross-encoder", "corrected")


@dataclass(frozen=True)
class Tokens:
    """As ``tokenizers.Encoding`` names them."""

    ids: list[int]
    type_ids: list[int]
    attention_mask: list[int]


class Colbert:
    """Tokens as ColBERT reads them; ``markers`` is the card's part, ``max_tokens`` what the encoder reads."""

    def __init__(self, markers: dict[str, Any], max_tokens: int) -> None:
        self.markers, self.max_tokens = markers, max_tokens
        self.skipped = frozenset(markers["skipped"])

    def marked(self, encoding: Any, marker: int, longest: int) -> list[int]:
        ids = [encoding.ids[0], marker, *encoding.ids[1:]]
        return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]

    def query(self, encoding: Any) -> Tokens:
        ids = self.marked(encoding, self.markers["query_marker"], self.markers["query_tokens"])
        mask, filler = [1] * len(ids), self.markers["filler"]
        if filler is not None:
            more = self.markers["query_tokens"] - len(ids)
            ids, mask = ids + [filler] * more, mask + [int(self.markers["filler_attended"])] * more
        return Tokens(ids, [0] * len(ids), mask)

    def passage(self, encoding: Any) -> Tokens:
        ids = self.marked(encoding, self.markers["passage_marker"], self.max_tokens)
        return Tokens(ids, [0] * len(ids), [1] * len(ids))

    def kept(self, ids: Sequence[int]) -> list[int]:
        """The places of a passage's tokens that take part."""
        return [place for place, token in enumerate(ids) if token not in self.skipped]


def every(index: int) -> bool:
    """All rows are wanted."""
    return True


class Ranker:
    """``encoder`` and, where scores are corrected, ``corrector`` have ``encode(texts)`` and ``run(encodings, wanted)``."""

    def __init__(self, card: dict[str, Any], encoder: Any, corrector: Any = None) -> None:
        self.encoder, self.corrector = encoder, corrector
        self.passages: int = card.get("corrected_passages", 0)
        self.weight = np.float32(card.get("correction_weight", 0))
        self.scoring: str = card["scoring"]
        self.wanted = every
        self.colbert = Colbert(card["colbert"], encoder.max_tokens) if "colbert" in card else None
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring {self.scoring!r} is not known")

    def score(
        self, pairs: Sequence[Pair], owners: Sequence[int] | None = None, wanted: Callable[[int], bool] = every
    ) -> np.ndarray:
        """float32 (pairs,); ``owners``: the request that each pair is of, so that none's scores depend on another's.

        ``wanted`` is called before each batch of rows, and may raise to end the work."""
        self.wanted = wanted
        if self.scoring == "cross-encoder":
            return self.crossed(pairs)
        if self.scoring == "late-interaction":
            return self.late_interaction(pairs)
        return self.corrected(pairs, owners or [0] * len(pairs))

    def late_interaction(self, pairs: Sequence[Pair]) -> np.ndarray:
        """float32 (pairs,)."""
        asked, told = self.vectors(pairs)
        return np.array([(asked[q] @ told[p].T).max(axis=1).mean() for q, p in pairs], np.float32)

    def vectors(self, pairs: Sequence[Pair]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The queries' and the passages' rows that take part, each (tokens, dimension)."""
        if self.colbert is not None:
            return self.marked(pairs, self.colbert)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        encodings = self.encoder.encode(texts)
        vectors = {}
        for text, encoding, row in zip(texts, encodings, self.encoder.run(encodings, self.wanted), strict=True):
            length = min(len(encoding.ids), self.encoder.max_tokens)  # a batch's rows are as long as its longest
            vectors[text] = row[slice(1, length - 1) if length > 2 else slice(0, length)]
        return vectors, vectors

    def marked(self, pairs: Sequence[Pair], colbert: Colbert) -> tuple[dict[str, Any], dict[str, Any]]:
        """``vectors`` as ColBERT has them."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        passages = list(dict.fromkeys(passage for _, passage in pairs))
        encodings = self.encoder.encode([*queries, *passages])
        read = [colbert.query(e) for e in encodings[: len(queries)]]
        read += [colbert.passage(e) for e in encodings[len(queries) :]]
        rows = self.encoder.run(read, self.wanted)
        asked = {text: row[: len(t.ids)] for text, row, t in zip(queries, rows, read, strict=False)}
        told = {
            text: row[colbert.kept(t.ids)]
            for text, row, t in zip(passages, rows[len(queries) :], read[len(queries) :], strict=True)
        }
        return asked, told

    def crossed(self, pairs: Sequence[Pair], encoder: Any = None) -> np.ndarray:
        """The network's row of each pair, float32 (pairs,)."""
        encoder = encoder or self.encoder
        return np.array([row[0] for row in encoder.run(encoder.encode(pairs), self.wanted)], np.float32)

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
