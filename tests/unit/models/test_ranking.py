"""The sets of questions written by hand, and the measure of rankings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from ranking import ndcg_at_10

ROOT = Path(__file__).resolve().parents[3]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def retrieval() -> list[dict[str, Any]]:
    return lines(ROOT / "model_repository" / "retrieval.jsonl")


def test_retrieval_set_is_large_enough_and_has_no_duplicates(retrieval: list[dict[str, Any]]) -> None:
    passages = [line for line in retrieval if "passage" in line]
    queries = [line for line in retrieval if "query" in line]
    assert len(passages) >= 160
    assert len(queries) >= 80
    for group, key in ((passages, "passage"), (queries, "query")):
        assert len({line[key] for line in group}) == len(group)
        assert len({flat(line["text"]).lower() for line in group}) == len(group)


def test_retrieval_grades_point_at_passages(retrieval: list[dict[str, Any]]) -> None:
    known = {line["passage"] for line in retrieval if "passage" in line}
    for line in retrieval:
        if "query" in line:
            assert set(line["relevant"]) <= known, line["query"]
            assert set(line["relevant"].values()) <= {1, 2}, line["query"]
            assert 2 in line["relevant"].values(), line["query"]


def test_questions_on_the_documents_are_answered_there() -> None:
    questions = lines(ROOT / "tests" / "data" / "doc_questions.jsonl")
    assert len({q["question"] for q in questions}) == len(questions) >= 40
    missing = [q for q in questions if flat(q["contains"]) not in flat((ROOT / q["document"]).read_text())]
    assert missing == []


def ndcg(scores: list[float], grades: list[float]) -> float:
    return float(ndcg_at_10(scores, grades))


def test_ndcg() -> None:
    assert ndcg([3, 2, 1], [2, 1, 0]) == 1
    # 2 at the second place, 1 at the first: (1 + 2 / log2 3) / (2 + 1 / log2 3).
    assert ndcg([2, 3, 1], [2, 1, 0]) == pytest.approx(0.8597, abs=1e-4)
    assert ndcg(list(range(20)), [1, *[0] * 19]) == 0
    shuffled = random.Random(1).sample(range(8), 8)
    assert ndcg([-float(g) for g in shuffled], [float(g) for g in shuffled]) < 1
    with pytest.raises(ValueError, match="above 0"):
        ndcg([1, 2], [0, 0])
