"""The generator's grounded chats: what is asked, what answers it, and what was kept back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from genmesh_models.sources import recipe

from services.rag import prompt
from services.rag.grounding import Source, ground
from services.runtime.sentences import split_sentences

data, chats, turns = (recipe("starter/generator", name) for name in ("data", "chats", "turns"))
ARTICLE = {
    "paragraphs": [
        {
            "context": "The mill was built in 1805 by Anna Roth. It may have burned in 1840. It grinds rye (as in [1]).",
            "qas": [
                {"question": "Who built the mill?", "answers": [{"text": "Anna Roth", "answer_start": 30}]},
                {"question": "When may it have burned?", "answers": [{"text": "1840", "answer_start": 60}]},
                {"question": "What does it grind?", "answers": [{"text": "rye", "answer_start": 76}]},
            ],
        },
        {"context": "The lake freezes in winter. Children skate on the lake.", "qas": []},
    ]
}  # fmt: skip


def parts(one: dict[str, Any]) -> tuple[str, list[str], str]:
    """A chat's question, passages and answer."""
    system, user, assistant = one["messages"]
    question = user["content"].split("\n")[0].removeprefix("Question: ")
    passages = re.findall(r"^\[\d\] (.+)$", user["content"], re.MULTILINE)
    asked = prompt.messages(question, passages)
    assert [system["content"], user["content"]] == [message.content for message in asked]
    return question, passages, assistant["content"]


def supported(passages: list[str], answer: str) -> bool:
    said, number = re.fullmatch(r"(.+) \[(\d)\]", answer, re.DOTALL).groups()  # type: ignore[union-attr]
    sources = [Source(int(number), sentence, 1.0) for sentence in split_sentences(passages[int(number) - 1])]
    return ground(said, [int(number)], sources) is not None


@pytest.mark.parametrize("held_out", [False, True])
def test_an_answer_passes_the_check_of_the_passage_that_it_cites(held_out: bool) -> None:
    made = list(chats.made_up(200, 0.25, 5, held_out=held_out))
    answered = 0
    for one in made:
        _, passages, answer = parts(one)
        assert 1 <= len(passages) <= 4
        if answer != prompt.NO_ANSWER:
            answered += 1
            assert supported(passages, answer), one
    assert 120 < answered < 170


def test_real_questions_are_answered_as_short_as_the_check_allows() -> None:
    made = [parts(one) for one in chats.real([ARTICLE], 1, 0, 0.0, 1)]
    assert {question: answer.rpartition(" [")[0] for question, _, answer in made} == {
        "Who built the mill?": "Anna Roth",
        "When may it have burned?": "It may have burned in 1840.",
        "What does it grind?": "rye",
    }
    assert all(supported(passages, answer) for _, passages, answer in made)


def test_a_real_question_may_stand_with_its_sentence_alone() -> None:
    made = [parts(one) for one in chats.real([ARTICLE], 0, 1, 0.0, 1)]
    assert [answer for _, _, answer in made] == ["Anna Roth [1]", "It may have burned in 1840. [1]", "rye [1]"]
    assert all(len(passages) == 1 == len(split_sentences(passages[0])) for _, passages, _ in made)


def test_a_question_without_its_passage_has_no_answer() -> None:
    made = [parts(one) for one in chats.real([ARTICLE], 1, 0, 1.0, 1)]
    without = [passages for _, passages, answer in made if answer == prompt.NO_ANSWER]
    assert len(without) == 3
    assert all("lake" in passage for passages in without for passage in passages)


def test_a_short_answer_stands_in_its_sentence_and_not_in_the_question() -> None:
    world = data.World(5)
    for fact in (world.fact() for _ in range(200)):
        assert fact.answer in fact.sentence
        assert fact.sentence not in fact.others
        assert fact.others


def test_a_question_names_only_what_its_statement_says() -> None:
    for statement, questions in (*data.FACTS, *data.FACTS_HELD_OUT):
        said = set(re.findall(r"\{(\w\d?)\}", statement))
        for question in questions:
            asked = re.findall(r"\{(\w\d?)\}", question)
            assert set(asked) <= said, question
            assert asked, f"{question} could be answered by any sentence of its form"


def test_nothing_held_out_is_trained_on() -> None:
    train, held_out = data.World(1), data.World(1, held_out=True)
    for ours, theirs in (
        (train.words, held_out.words),
        (train.syllables, held_out.syllables),
        (train.prose, held_out.prose),
        ([form[0] for form in train.forms], [form[0] for form in held_out.forms]),
        (train.frames, held_out.frames),
    ):
        assert ours
        assert theirs
        assert not set(ours) & set(theirs)
    assert len(held_out.forms) >= 40


def test_the_same_seed_makes_the_same_chats() -> None:
    assert list(chats.made_up(20, 0.2, 9)) == list(chats.made_up(20, 0.2, 9))
    assert list(chats.real([ARTICLE], 2, 1, 0.5, 9)) == list(chats.real([ARTICLE], 2, 1, 0.5, 9))


PARAGRAPH = {
    "context": "",
    "qas": [
        {"question": "Where was Ada Lovelace born?", "answers": [{"text": "London"}]},
        {"question": "What did Ada Lovelace write in 1843?", "answers": [{"text": "notes on the Analytical Engine"}]},
        {"question": "Who invented the Analytical Engine?", "answers": [{"text": "Babbage"}]},
    ],
}


@pytest.mark.parametrize(
    ("question", "name", "pronoun", "rewritten"),
    [
        ("What did Ada Lovelace write in 1843?", "Ada Lovelace", 3, "What did she write in 1843?"),
        ("What are Ada Lovelace's notes about?", "Ada Lovelace", 3, "What are her notes about?"),
        ("Who invented the Analytical Engine?", "the Analytical Engine", 0, "Who invented it?"),
        ("Who wrote about the Engine in 1843?", "Engine", 0, "Who wrote about it in 1843?"),
        ("Who married Babbage?", "Babbage", 2, "Who married him?"),
    ],
)
def test_a_pronoun_takes_the_place_of_a_name(question: str, name: str, pronoun: int, rewritten: str) -> None:
    assert name in turns.names(question) or "the " + name in turns.names(question)
    assert turns.with_pronoun(question, name, pronoun) == rewritten


def test_no_pronoun_takes_the_place_of_an_adjective() -> None:
    assert turns.names("Who built the Turing machine?") == []


def test_real_conversations_refer_to_what_was_named_before() -> None:
    conversations = list(turns.real([{"paragraphs": [PARAGRAPH]}], 9, 1))
    referring = {one.standalone for one in conversations if one.question != one.standalone}
    assert referring == {"What did Ada Lovelace write in 1843?", "Who invented the Analytical Engine?"}
    for one in conversations:
        text = " ".join(f"{question} {answer}" for question, answer in one.turns)
        replaced = set(one.standalone.rstrip("?").split()) - set(one.question.rstrip("?").split())
        assert all(word in text for word in replaced), one


@pytest.mark.parametrize("held_out", [False, True])
def test_made_up_conversations_need_no_words_from_elsewhere(held_out: bool) -> None:
    conversations = list(turns.made_up(200, 5, held_out=held_out))
    assert 20 < sum(one.question == one.standalone for one in conversations) < 70
    # "And the Tarn?" needs what the earlier question asks, a pronoun what it names.
    for one in conversations:
        (system, user, assistant) = one.chat()["messages"]
        assert (system["role"], user["role"], assistant["content"]) == ("system", "user", one.standalone)
        assert user["content"].endswith(f"\nLast question: {one.question}")
        text = f"{one.turns[-1][0]} {one.turns[-1][1]} {one.question}".lower()
        words = set(re.findall(r"\w+", one.standalone.lower()))
        assert sum(word in text for word in words) >= 0.6 * len(words), one


def test_a_third_of_the_real_conversations_stands_alone() -> None:
    made = turns.chats([{"paragraphs": [PARAGRAPH] * 5}], 6, 7, 1)
    users = [one["messages"][1]["content"] for one in made]
    unchanged = sum(
        u.endswith(f"Last question: {one['messages'][2]['content']}") for u, one in zip(users, made, strict=True)
    )
    assert len(made) > 50
    assert 0.1 < unchanged / len(made) < 0.4
