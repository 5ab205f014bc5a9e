"""Scores of (query, passage) pairs, as a built reranker's card says; the build copies it beside each ``model.py``.

``scoring`` is one of:

- ``late-interaction`` (MaxSim, Khattab & Zaharia 2020): the mean, over the query's tokens, of the greatest cosine
  with any token of the passage, -1 to 1. Special tokens take no part. The encoder's rows are token vectors of unit
  length. With a part ``colbert`` the card says what that model does to tokens: a marker after the first token tells
  queries from passages, queries are filled up (or cut) to ``query_tokens``, all tokens take part but the passages'
  ``skipped``.
- ``cross-encoder``: the network reads query and passage as one text; its row is the score, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[str, str]
SCORINGS = ("late-interaction", "cross-encoder")


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
    """``encoder`` has ``encode(texts)`` and ``run(encodings, wanted)``."""

    def __init__(self, card: dict[str, Any], encoder: Any) -> None:
        self.encoder = encoder
        self.scoring: str = card["scoring"]
        self.wanted = every
        self.colbert = Colbert(card["colbert"], encoder.max_tokens) if "colbert" in card else None
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring {self.scoring!r} is not known")

    def score(self, pairs: Sequence[Pair], wanted: Callable[[int], bool] = every) -> np.ndarray:
        """float32 (pairs,); ``wanted`` is called before each batch of rows, and may raise to end the work."""
        self.wanted = wanted
        return self.crossed(pairs) if self.scoring == "cross-encoder" else self.late_interaction(pairs)

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

    def crossed(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The network's row of each pair, float32 (pairs,)."""
        return np.array([row[0] for row in self.encoder.run(self.encoder.encode(pairs), self.wanted)], np.float32)
