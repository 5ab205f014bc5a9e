"""Which questions the benchmark of grounded answers asks."""

from __future__ import annotations

from genmesh.evaluation import Question

from loadtest.grounded import questions


def test_each_question_is_asked_with_its_paragraph_and_without() -> None:
    paragraph = {"qas": [{"question": "How long?", "answers": [{"text": "seven years"}, {"text": "7 years"}]}]}
    gold = ["seven years", "7 years"]
    assert list(questions("3-1", paragraph)) == [
        Question("How long?", {"3-1": 1.0}, gold),
        Question("How long?", {}, gold, 'paragraph != "3-1"'),
    ]
