"""How a reranker's card turns rows of its networks into scores; the networks here are tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "model_repository" / "shared"))
from ranker import Ranker

WORDS = {"red": (1.0, 0.0), "blue": (0.0, 1.0), "mauve": (0.6, 0.8)}


class Words:
    """One unit vector a word, between those of two special tokens that are like every word."""

    max_tokens = 16

    def encode(self, texts: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(ids=[0, *range(len(text.split())), 0], text=text) for text in texts]

    def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
        special, longest = (9.0, 9.0), max(len(e.ids) for e in encodings)
        rows = [[special, *(WORDS[word] for word in e.text.split()), special] for e in encodings]
        # As a batch's rows come: as long as its longest.
        return [np.array([*row, *[(7.0, 7.0)] * (longest - len(row))], np.float32) for row in rows]


class Pairs:
    """A score a pair."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        return [passage for _, passage in pairs]

    def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
        return [np.array([self.scores[passage]], np.float32) for passage in encodings]


def test_late_interaction_leaves_special_tokens_and_padding_out() -> None:
    ranker = Ranker({"scoring": "late-interaction"}, Words())
    scores = ranker.score([("red blue", "red"), ("red blue", "mauve blue red"), ("red", "mauve")])
    np.testing.assert_allclose(scores, [0.5, 1.0, 0.6], atol=1e-3)


class Ids:
    """A unit vector a token id; ids of a text are its words' places in this list, between 1 and 2."""

    max_tokens = 6
    words = ("", "", "", "red", "blue", ",", "mauve")

    def __init__(self) -> None:
        self.read: list[Any] = []

    def encode(self, texts: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(ids=[1, *map(self.words.index, text.split()), 2]) for text in texts]

    def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
        self.read = list(encodings)
        table = np.eye(100, dtype=np.float32)
        return [table[[*e.ids, *[0] * (9 - len(e.ids))]] for e in encodings]


def test_a_colbert_marks_and_fills_up() -> None:
    markers = {
        "query_marker": 50, "passage_marker": 51, "query_tokens": 5, "passage_tokens": 6, "filler": 90,
        "filler_attended": False, "skipped": [5],
    }  # fmt: skip
    encoder = Ids()
    ranker = Ranker({"scoring": "late-interaction", "colbert": markers}, encoder)
    scores = ranker.score([("red", "red , blue"), ("red blue mauve", "blue")])
    assert [e.ids for e in encoder.read] == [
        [1, 50, 3, 2, 90],
        [1, 50, 3, 4, 2],  # cut to the query's length, its last token kept
        [1, 51, 3, 5, 4, 2],
        [1, 51, 4, 2],
    ]
    assert [e.attention_mask for e in encoder.read] == [[1, 1, 1, 1, 0], [1] * 5, [1] * 6, [1] * 4]
    # First: 1, red and 2 are in the passage, the marker and the filler are not. A comma takes no part.
    np.testing.assert_allclose(scores, [3 / 5, 3 / 5], atol=1e-6)
    commas = ranker.score([("red", ", red")])
    assert commas == pytest.approx([3 / 5])
    assert encoder.read[1].ids == [1, 51, 5, 3, 2]


class Read(Words):
    """Remembers what it read."""

    def __init__(self) -> None:
        self.texts: list[list[str]] = []

    def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
        self.texts.append([e.text for e in encodings])
        return super().run(encodings, wanted)


def test_passages_are_read_once_and_forgotten_in_turn() -> None:
    """Room for two passages of one word: 2 values of 2 bytes each."""
    encoder = Read()
    ranker = Ranker({"scoring": "late-interaction"}, encoder, kept_bytes=8)
    scores = ranker.score([("red", "blue"), ("red", "mauve"), ("blue", "blue")])
    assert ranker.score([("red", "blue"), ("red", "mauve")]).tolist() == scores[:2].tolist()
    ranker.score([("red", "mauve"), ("red", "red")])
    ranker.score([("red", "blue"), ("red", "mauve red blue")])
    ranker.score([("red", "red")])
    assert encoder.texts == [
        ["red", "blue", "blue", "mauve"], ["red"], ["red", "red"], ["red", "blue", "mauve red blue"], ["red", "red"],
    ]  # fmt: skip
    assert (ranker.kept.asked, ranker.kept.found, ranker.kept.bytes) == (9, 3, 4)


def test_nothing_is_kept_of_what_nobody_waited_for() -> None:
    class Leaving(Words):
        def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
            wanted(0)
            return super().run(encodings, wanted)

    def nobody(_: int) -> bool:
        raise RuntimeError("all clients left")

    ranker = Ranker({"scoring": "late-interaction"}, Leaving())
    with pytest.raises(RuntimeError, match="left"):
        ranker.score([("red", "blue")], nobody)
    assert ranker.kept.bytes == 0
    assert ranker.score([("red", "red")]) == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("scoring", "encoder"), [("late-interaction", Words()), ("cross-encoder", Pairs({"red": 0.25}))]
)
def test_one_pair_is_enough(scoring: str, encoder: Any) -> None:
    (score,) = Ranker({"scoring": scoring}, encoder).score([("red", "red")])
    assert score == pytest.approx(1.0 if scoring == "late-interaction" else 0.25)
