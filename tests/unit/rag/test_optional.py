"""Reformulations and hypothetical answers are read from generated text."""

from __future__ import annotations

import pytest
from genmesh.v1.common_pb2 import ChatMessage

from services.rag import prompt
from services.rag.optional import hypothetical_answer, lines, standalone


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


SAID = "Who built the observatory? Ines Farrow built it in 1911."


@pytest.mark.parametrize(
    ("text", "question", "taken"),
    [
        ("When was Ines Farrow born?", "When was she born?", True),
        ("“When was Ines Farrow\nborn?”", "When was she born?", True),
        ("Who built Quill Hill?", "And Quill Hill?", True),
        ("How much does it cost to visit the observatory?", "How much does a visit cost?", True),
        ("When was she born?", "When was she born?", True),
        ("Why did Ines Farrow build the observatory?", "Why?", True),
        ("Who built the observatory?", "And who built the mill?", False),  # the question before
        ("Ines Farrow", "When was she born?", False),  # an answer
        ("Ines Farrow was a famous astronomer from Paris, France", "When was she born?", False),
        (prompt.NO_ANSWER, "When was she born?", False),
        ("What is the capital of France?", "When was she born?", False),
        ("", "Why?", False),
        (f"When was {'Ines Farrow ' * 40}born?", "When was she born?", False),
    ],
)
def test_a_question_that_is_rewritten_asks_the_same(text: str, question: str, taken: bool) -> None:
    found = standalone(text, question, SAID)
    assert found == ([prompt.one_line(text).strip("“”")] if taken else [])


def test_the_last_turns_are_read_without_their_citations() -> None:
    turns = [ChatMessage(role=("user", "assistant")[i % 2], content=f"Turn {i}\n[{i}]" + "x" * 999) for i in range(9)]
    _, user = prompt.standalone(turns, "And\nnow?")
    lines = user.content.split("\n")
    assert [line[:14] for line in lines] == [
        "Assistant: Tur", "User: Turn 4 x", "Assistant: Tur", "User: Turn 6 x", "Assistant: Tur", "User: Turn 8 x", "Last question:",
    ]  # fmt: skip
    assert lines[-1] == "Last question: And now?"
    assert all(len(line) < 420 and "[" not in line for line in lines)
