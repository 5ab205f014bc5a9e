"""What ``genmesh eval`` reads and counts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from genmesh.evaluation import NAMES, Given, Question, figures, has, ndcg, normalized, read, recall, shown
from genmesh.v1 import rag_pb2 as pb

from model_repository.ranking import ndcg_at_10

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "She."}]


def test_questions_are_lines_of_json() -> None:
    lines = [
        {
            "question": "How long?",
            "relevant": ["a", "b"],
            "answers": ["seven years"],
            "filter": "year > 3",
            "history": TURNS,
        },
        {"question": "Which?", "relevant": {"a": 2, "b": 0.5, "c": 0}},
        {"question": "Who?\u2028"},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines) + "\r\n"
    assert read(text) == [
        Question("How long?", {"a": 1.0, "b": 1.0}, ["seven years"], "year > 3", TURNS),
        Question("Which?", {"a": 2.0, "b": 0.5}),
        Question("Who?\u2028"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no questions"),
        (" \n\n", "no questions"),
        ('{"question": "x"}\n{', "line 2"),
        ("[1]", "line 1: is no JSON object"),
        ("[" * 100_000, "line 1"),
        ('{"question": " "}', "'question' must be text"),
        ('{"relevant": ["a"]}', "'question' must be text"),
        ('{"question": "x", "relevant": "a"}', "'relevant' must be"),
        ('{"question": "x", "relevant": [1]}', "'relevant' must be"),
        ('{"question": "x", "relevant": {"a": -1}}', "'relevant' must be"),
        ('{"question": "x", "relevant": {"a": NaN}}', "'relevant' must be"),
        ('{"question": "x", "relevant": {"a": 1e9}}', "'relevant' must be"),
        ('{"question": "x", "answers": "seven"}', "'answers' must be"),
        ('{"question": "x", "answers": ["."]}', "'answers' must be"),
        ('{"question": "x", "filter": 1}', "'filter' must be"),
        ('{"question": "x", "history": "y"}', "'history' must be"),
        ('{"question": "x", "history": [{"role": "system", "content": "y"}]}', "'history' must be"),
        ('{"question": "x", "history": [{"role": "user", "content": " "}]}', "'history' must be"),
        ('{"question": "x", "documents": []}', "'documents' is none of"),
    ],
)
def test_a_line_at_fault_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)


def test_ndcg_is_that_of_the_project_with_other_gains() -> None:
    draw = random.Random(7)
    for _ in range(200):
        names = [str(i) for i in range(draw.randint(1, 20))]
        grades = {name: float(draw.randint(1, 3)) for name in draw.sample(names, draw.randint(1, len(names)))}
        order = draw.sample(names, draw.randint(0, len(names)))
        ranked = [*order[:10], *[""] * 10][:10]  # what was not found has no place among the first ten
        rest = [name for name in grades if name not in ranked]
        gains = [2 ** grades.get(name, 0.0) - 1 for name in [*ranked, *rest]]
        assert ndcg(order, grades) == pytest.approx(ndcg_at_10(range(len(gains), 0, -1), gains))
    assert ndcg(["a", "b"], {"b": 1}) == pytest.approx(0.6309, abs=1e-4)


def test_recall() -> None:
    grades = {"a": 1.0, "b": 2.0}
    assert [recall(["x", "b", "y", "z", "a"], grades, most) for most in (1, 4, 10)] == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("text", "plain"), [("The U.S., a lot!", "us lot"), ("“Seven years” [1]", "seven years 1"), ("", "")]
)
def test_texts_are_compared_without_articles_and_punctuation(text: str, plain: str) -> None:
    assert normalized(text) == plain


def test_a_gold_answer_stands_in_a_reply_word_for_word() -> None:
    assert has("It takes the seven years. [1]", ["six", "Seven Years"])
    assert not has("seventy-seven years", ["seven years", "even"])
    assert has("他在1917年出生。", ["1917年"])
    assert not has("les étés", ["été"])
    assert not has("77 years", ["7 years"])


def given(
    question: Question, found: str = "", text: str = "", grounding: Any = pb.GROUNDING_SUPPORTED, cited: str = ""
) -> Given:
    return Given(
        question, list(found), 0.2, text, grounding, list(cited), ["kept for seven years"] if cited else [], 0.4
    )


def test_figures() -> None:
    one, two, none = Question("?", {"a": 1.0}, ["7", "seven years"]), Question("?", {"a": 1.0, "b": 1.0}), Question("?")
    found = figures(
        [
            given(one, "xa", "7 [1]", cited="a"),
            given(one, "", "kept [1]", cited="x"),
            given(two, "ab", "It is b.", pb.GROUNDING_QUOTATION, cited="bx"),
            given(two, "xxxxab", "", pb.GROUNDING_NO_ANSWER),
            given(none, "a", "", pb.GROUNDING_NO_ANSWER),
            given(none, "a", "so", cited="a"),
        ],
        answers=True,
    )
    assert list(found) == [name for name in NAMES if name != "retrieve_ms"]
    assert found == {
        "questions": 6,
        "answerable": 4,
        "ndcg_at_10": pytest.approx((0.6309 + 0 + 1 + (0.3869 + 0.3562) / 1.6309) / 4, abs=1e-3),
        "recall_at_4": 0.5,
        "recall_at_10": 0.75,
        "first_relevant": 0.25,
        "answered": 0.75,
        "relevant_cited": 0.5,
        "citations_relevant": 0.5,
        "gold_in_answer": 0.5,
        "gold_in_answer_or_quote": 1.0,
        "own_words": 0.5,
        "abstained_rightly": 0.5,
        "abstained_wrongly": 0.25,
        "ttft_ms": 400.0,
        "abstention_ms": 400.0,
    }


def test_what_no_question_asks_for_has_no_figure() -> None:
    found = figures([given(Question("?"), grounding=pb.GROUNDING_NO_ANSWER)], answers=True)
    assert [name for name, value in found.items() if value is None] == [
        "ndcg_at_10", "recall_at_4", "recall_at_10", "first_relevant", "answered", "relevant_cited", "citations_relevant", "gold_in_answer",
        "gold_in_answer_or_quote", "own_words", "abstained_wrongly", "ttft_ms",
    ]  # fmt: skip
    alone = figures([given(Question("?"))], answers=False)
    assert list(alone) == list(NAMES)[: len(alone)]
    assert alone["retrieve_ms"] == 200.0
    shows = [shown(*one) for one in (("questions", 3), ("ndcg_at_10", 0.25), ("recall_at_4", 0.25), ("ttft_ms", 12.4))]
    assert [*shows, shown("ttft_ms", None)] == ["3", "0.250", "25.0%", "12", "-"]


def test_figures_of_answers_with_their_document_and_without() -> None:
    quote = "Audit logs are kept for seven years."

    def reply(text: str, grounding: Any, cited: str = "a", left_out: bool = False) -> Given:
        question = Question("How long?", {} if left_out else {"a": 1.0}, ["seven years", "the 7 years"])
        quotes = [quote] if cited else []
        return Given(question, [cited or "a"], 0.2, text, grounding, list(cited), quotes, 0.25)

    none, said = pb.GROUNDING_NO_ANSWER, "The passages do not answer the question."
    found = figures(
        [
            reply("7 years [1]", pb.GROUNDING_SUPPORTED),
            reply("Audit logs [1]", pb.GROUNDING_SUPPORTED),
            reply(f"“{quote}” [1]", pb.GROUNDING_QUOTATION, cited="b"),
            reply(said, none, cited=""),
            reply(said, none, cited="", left_out=True),
            reply("seventy-seven years [1]", pb.GROUNDING_SUPPORTED, left_out=True),
        ],
        answers=True,
    )
    expected = {
        "questions": 6, "answerable": 4, "first_relevant": 0.75, "relevant_cited": 0.5, "citations_relevant": 0.6667,
        "gold_in_answer": 0.5, "gold_in_answer_or_quote": 0.75, "own_words": 0.5, "abstained_wrongly": 0.25,
        "abstained_rightly": 0.5, "ttft_ms": 250.0, "abstention_ms": 250.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
