"""Reformulations and hypothetical answers are read from generated text."""

from __future__ import annotations

import pytest

from services.rag import prompt
from services.rag.optional import hypothetical_answer, lines


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How tall is it?\nWhat is its height?", ["How tall is it?", "What is its height?"]),
        (
            "1. How tall is it?\n 2) How high is it?\n- Its height?",
            ["How tall is it?", "How high is it?", "Its height?"],
        ),
        ("Here are three ways:\n\n* “How tall is it?”\n", ["How tall is it?"]),
        ("What is the height?", []),  # the question
        ("what is the  HEIGHT", []),
        ("How tall is it?\nhow tall is it\nHow tall?", ["How tall is it?", "How tall?"]),
        ("1.5 metres is how tall?", ["1.5 metres is how tall?"]),
        (prompt.NO_ANSWER, []),
        ("x" * 401, []),
        ("?!\n...", []),
        ("", []),
        ("a\nb\nc\nd", ["b", "c", "d"]),  # "a" is an article
        ("b\nc\nd\ne", ["b", "c", "d"]),
    ],
)
def test_reformulations_are_read_line_by_line(text: str, found: list[str]) -> None:
    assert lines(text, "What is the height?", 3) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("It is\n330 m tall. ", ["It is 330 m tall."]), (prompt.NO_ANSWER, []), ("the passages do not answer the question", []),
     (" \n", [])],
)  # fmt: skip
def test_a_hypothetical_answer_is_one_line(text: str, found: list[str]) -> None:
    assert hypothetical_answer(text) == found


def test_prompts_have_the_question_in_one_line() -> None:
    for messages in (prompt.reformulations("Why\nso?", 2), prompt.hypothetical_answer("Why\nso?")):
        assert [one.role for one in messages] == ["system", "user"]
        assert "Why so?" in messages[1].content
    assert "2 other ways" in prompt.reformulations("Why?", 2)[1].content
    assert "1 other way " in prompt.reformulations("Why?", 1)[1].content
