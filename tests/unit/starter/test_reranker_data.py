"""The reranker's data: the sets written by hand, and the recipe's own tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from genmesh_models.sources import recipe
from ranking import ndcg_at_10

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "model_repository" / "starter" / "reranker"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def retrieval() -> list[dict[str, Any]]:
    return lines(ROOT / "model_repository" / "retrieval.jsonl")


@pytest.fixture
def forms() -> ModuleType:
    return recipe("starter/reranker", "forms")


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


def test_training_never_sees_the_retrieval_set(retrieval: list[dict[str, Any]]) -> None:
    trained = flat((RECIPE / "passages.txt").read_text() + (RECIPE / "forms.py").read_text()).lower()
    assert [line["text"] for line in retrieval if flat(line["text"]).lower() in trained] == []


def test_questions_on_the_documents_are_answered_there() -> None:
    questions = lines(ROOT / "tests" / "data" / "doc_questions.jsonl")
    assert len({q["question"] for q in questions}) == len(questions) >= 40
    missing = [q for q in questions if flat(q["contains"]) not in flat((ROOT / q["document"]).read_text())]
    assert missing == []


def test_written_passages_have_questions() -> None:
    rows = [r for r in (RECIPE / "passages.txt").read_text().splitlines() if r and not r.startswith("#")]
    assert all(len(row.split("|")) >= 4 for row in rows)
    assert len({row.split("|")[1] for row in rows}) == len(rows)


def test_each_question_is_answered_by_a_statement_with_all_its_names(forms: ModuleType) -> None:
    import re

    def slots(text: str) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", text))

    for form in (*forms.FORMS, *forms.FORMS_HELD_OUT):
        statements, questions, _ = form
        for question in questions:
            assert slots(question), question
            assert any(slots(question) <= slots(s) for s in statements), question


def test_held_out_forms_and_words_are_not_trained_on(forms: ModuleType) -> None:
    assert not {s for f in forms.FORMS for s in f[0]} & {s for f in forms.FORMS_HELD_OUT for s in f[0]}
    assert not {q for f in forms.FORMS for q in f[1]} & {q for f in forms.FORMS_HELD_OUT for q in f[1]}
    for trained, held in ((forms.VERBS, forms.VERBS_HELD_OUT), (forms.NOUNS, forms.NOUNS_HELD_OUT)):
        assert not {w for group in trained for w in group} & {w for group in held for w in group}
    assert {first for form in (*forms.FORMS, *forms.FORMS_HELD_OUT) for first in form[0][:1]} >= forms.SYMMETRIC


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
