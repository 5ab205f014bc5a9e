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

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[str, str]
SCORINGS = ("late-interaction", "cross-encoder")
# Of passages' token vectors that are kept for the next question: of 384 dimensions about 1,300 passages of 130 tokens.
KEPT_BYTES = 128 << 20


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


class Kept:
    """Token vectors of passages, in half precision; those that were asked for the longest ago go first."""

    def __init__(self, most: int) -> None:
        """``most``: bytes."""
        self.most, self.bytes = most, 0
        self.asked = self.found = 0  # passages since the start
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, passages: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of the passages that are kept."""
        there = {text: self._rows[text] for text in passages if text in self._rows}
        for text in there:
            self._rows.move_to_end(text)
        self.asked, self.found = self.asked + len(passages), self.found + len(there)
        return there

    def put(self, text: str, rows: np.ndarray) -> None:
        self._rows[text] = rows
        self.bytes += rows.nbytes
        while self.bytes > self.most:
            self.bytes -= self._rows.popitem(last=False)[1].nbytes


def every(index: int) -> bool:
    """All rows are wanted."""
    return True


class Ranker:
    """``encoder`` has ``encode(texts)`` and ``run(encodings, wanted)``."""

    def __init__(self, card: dict[str, Any], encoder: Any, kept_bytes: int = KEPT_BYTES) -> None:
        self.encoder, self.kept = encoder, Kept(kept_bytes)
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
        queries, passages = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
        told = self.kept.get(passages)
        asked, read = self.vectors(queries, [text for text in passages if text not in told])
        for text, rows in read.items():
            told[text] = rows.astype(np.float16)
            self.kept.put(text, told[text])
        wide = {text: rows.astype(np.float32) for text, rows in told.items()}
        return np.array([(asked[q] @ wide[p].T).max(axis=1).mean() for q, p in pairs], np.float32)

    def vectors(self, queries: Sequence[str], passages: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The queries' and the passages' rows that take part, each (tokens, dimension)."""
        encodings = self.encoder.encode([*queries, *passages])
        asked, told = encodings[: len(queries)], encodings[len(queries) :]
        if self.colbert is None:
            longest = self.encoder.max_tokens
            lengths = [min(len(e.ids), longest) for e in encodings]  # a batch's rows are as long as its longest
            rows = self.encoder.run(encodings, self.wanted)
            parts = [row[slice(1, n - 1) if n > 2 else slice(0, n)] for row, n in zip(rows, lengths, strict=True)]
        else:
            asked, told = [self.colbert.query(e) for e in asked], [self.colbert.passage(e) for e in told]
            rows = self.encoder.run([*asked, *told], self.wanted)
            parts = [row[: len(t.ids)] for t, row in zip(asked, rows, strict=False)]
            parts += [row[self.colbert.kept(t.ids)] for t, row in zip(told, rows[len(asked) :], strict=True)]
        return dict(zip(queries, parts, strict=False)), dict(zip(passages, parts[len(queries) :], strict=True))

    def crossed(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The network's row of each pair, float32 (pairs,)."""
        return np.array([row[0] for row in self.encoder.run(self.encoder.encode(pairs), self.wanted)], np.float32)
