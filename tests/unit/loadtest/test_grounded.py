"""Which questions the benchmark of grounded answers asks."""

from __future__ import annotations

from pathlib import Path

from genmesh.evaluation import Question

from loadtest.grounded import follow_ups, questions


def test_each_question_is_asked_with_its_paragraph_and_without() -> None:
    paragraph = {"qas": [{"question": "How long?", "answers": [{"text": "seven years"}, {"text": "7 years"}]}]}
    gold = ["seven years", "7 years"]
    assert list(questions("3-1", paragraph)) == [
        Question("How long?", {"3-1": 1.0}, gold),
        Question("How long?", {}, gold, 'paragraph != "3-1"'),
    ]


def test_each_follow_up_is_asked_with_earlier_turns_without_and_standalone() -> None:
    sets = follow_ups(Path("loadtest/follow_ups.jsonl").read_text("utf-8"))
    first = {name: asked[0] for name, asked in sets.items()}
    text = "And in which Western country is it still allowed?"
    assert [(one.question, len(one.history)) for one in first.values()] == [
        (text, 2), (text, 0), ("In which Western country is corporal punishment still allowed?", 0),
    ]  # fmt: skip
    assert {(*one.relevant, *one.gold) for one in first.values()} == {("5-0", "United States")}
    assert {len(asked) for asked in sets.values()} == {40}
