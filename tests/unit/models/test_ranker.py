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
    """A logit a pair; counts what it reads."""

    def __init__(self, logits: dict[str, float]) -> None:
        self.logits, self.read = logits, 0

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        return [passage for _, passage in pairs]

    def run(self, encodings: Sequence[Any], wanted: Any) -> list[np.ndarray]:
        self.read += len(encodings)
        return [np.array([self.logits[passage]], np.float32) for passage in encodings]


def test_late_interaction_leaves_special_tokens_and_padding_out() -> None:
    ranker = Ranker({"scoring": "late-interaction"}, Words())
    scores = ranker.score([("red blue", "red"), ("red blue", "mauve blue red"), ("red", "mauve")])
    np.testing.assert_allclose(scores, [0.5, 1.0, 0.6], atol=1e-6)


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


def test_the_correction_reads_the_best_of_each_query_and_nobody_overtakes_them() -> None:
    logits = {"red": -30.0, "mauve": 20.0, "mauve mauve": 10.0}
    corrector = Pairs(logits)
    card = {"scoring": "corrected", "corrected_passages": 3, "correction_weight": 0.01}
    ranker = Ranker(card, Words(), corrector)
    passages = ["blue", "red", "mauve", "mauve mauve"]
    scores = ranker.score([("red", passage) for passage in passages] + [("blue", "mauve")])
    # Late interaction says 0, 1, 0.6, 0.6 and 0.8; "blue" is corrected as the worst of those that were read.
    np.testing.assert_allclose(scores, [-0.3, 0.7, 0.8, 0.7, 1.0], atol=1e-6)
    assert corrector.read == 4


def test_two_requests_with_one_question_do_not_share_what_is_read() -> None:
    card = {"scoring": "corrected", "corrected_passages": 1, "correction_weight": 0.01}
    corrector = Pairs({"red": -30.0, "mauve": 20.0})
    ranker = Ranker(card, Words(), corrector)
    together = ranker.score([("red", "red"), ("red", "mauve")], [0, 1])
    alone = [ranker.score([("red", passage)])[0] for passage in ("red", "mauve")]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("scoring", ["late-interaction", "corrected"])
def test_one_pair_is_enough(scoring: str) -> None:
    card = {"scoring": scoring, "corrected_passages": 8, "correction_weight": 0.5}
    (score,) = Ranker(card, Words(), Pairs({"red": 2.0})).score([("red", "red")])
    assert score == pytest.approx(1.0 if scoring == "late-interaction" else 2.0)
