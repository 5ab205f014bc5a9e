"""The generator's made-up questions: what is asked, what answers it, and what was kept back."""

from __future__ import annotations

import re

import pytest
from genmesh_models.sources import recipe

data = recipe("starter/generator", "data")
LETTERS = "bcdfglmnprstv"
WORDS = [a + vowel + b + "er" for a in LETTERS for b in LETTERS for vowel in "aeiou"]
PROSE = [f"The {a} of {b} is {c}." for a, b, c in zip(WORDS, WORDS[200:], WORDS[400:], strict=False)]


@pytest.fixture(autouse=True)
def _own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's words come from a package of Triton's environment."""
    monkeypatch.setattr(data, "sources", lambda: (WORDS, PROSE))


def test_the_rag_service_asks_in_the_words_that_were_trained() -> None:
    from services.rag import prompt

    assert prompt.SYSTEM == data.SYSTEM
    sample = data.World(3, english=True).sample(3)
    asked = sample.user[slice(*sample.questions[0])]
    passages = re.findall(r"^\[\d\] (.+)$", sample.user, re.MULTILINE)
    system, user = prompt.messages(asked, passages)
    assert (system.content, user.content) == (sample.system, sample.user)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("level", range(5))
def test_an_answer_is_one_sentence_of_the_passage_that_it_cites(level: int, held_out: bool) -> None:
    world = data.World(5, held_out=held_out)
    answered = 0
    for sample in (world.sample(level) for _ in range(200)):
        spans = [sample.user[first:last] for first, last, _ in sample.sentences]
        assert len(set(spans)) == len(spans)
        assert len({sample.user[slice(*q)] for q in sample.questions}) <= 1
        if sample.sentence is None:
            assert sample.answer in (data.NO_ANSWER, data.NO_PASSAGES)
            continue
        answered += 1
        number = sample.user[slice(*sample.marker)]
        assert sample.answer == f"{sample.user[slice(*sample.sentence)]} [{number}]"
        passage = next(line for line in sample.user.splitlines() if line.startswith(f"[{number}]"))
        assert sample.answer.removesuffix(f" [{number}]") in passage
    assert answered > 140


def test_a_quarter_without_an_answer_where_that_is_asked_for() -> None:
    world = data.World(6, english=True, unanswered=0.25)
    none = sum(world.sample(3).answer == data.NO_ANSWER for _ in range(800))
    assert 150 < none < 250


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


def test_the_same_seed_makes_the_same_samples() -> None:
    one, other = data.World(9), data.World(9)
    assert [one.sample(3) for _ in range(20)] == [other.sample(3) for _ in range(20)]


@pytest.mark.parametrize(
    ("verb", "third", "past"),
    [("carry", "carries", "carried"), ("stop", "stops", "stopped"), ("watch", "watches", "watched"),
     ("buy", "buys", "bought"), ("use", "uses", "used")],
)  # fmt: skip
def test_verbs_are_inflected(verb: str, third: str, past: str) -> None:
    assert (data.third_person(verb), data.past_forms(verb)[0]) == (third, past)
