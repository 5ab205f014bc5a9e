"""Which parts of a sentence may stand for it as a short answer."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rag.spans import LONGEST, is_span
from services.rag.words import tokens

PAIRS = [json.loads(line) for line in Path(__file__).with_name("span_pairs.jsonl").read_text("utf-8").splitlines()]
REFUSED, ACCEPTED = [p for p in PAIRS if not p["accept"]], [p for p in PAIRS if p["accept"]]
# True answers that the lists refuse: the price of safety. None is added without a reason.
STILL_REFUSED = 8
WORD = st.sampled_from(
    ["the", "pump", "runs", "at", "night", "in", "Oslo", "with", "of", "five", "bar", "red", "and", "Anna"]
)
SENTENCE = st.lists(WORD, min_size=1, max_size=LONGEST).map(" ".join)


@pytest.mark.parametrize(
    "pair", [pytest.param(p, id=f"{n}-{p['kind']}") for n, p in enumerate(PAIRS, 1) if not p["accept"]]
)
def test_a_part_that_says_something_else_is_refused(pair: dict[str, str]) -> None:
    assert not is_span(pair["answer"], pair["source"])


def test_nearly_all_true_parts_are_accepted() -> None:
    refused = [(p["answer"], p["source"]) for p in ACCEPTED if not is_span(p["answer"], p["source"])]
    assert len(refused) <= STILL_REFUSED, refused


def test_there_are_enough_pairs_and_none_twice() -> None:
    assert len(REFUSED) >= 300
    assert len(ACCEPTED) >= 110
    assert len({(p["source"], p["answer"]) for p in PAIRS}) == len(PAIRS)


@given(SENTENCE)
def test_a_whole_sentence_is_a_part_of_itself(sentence: str) -> None:
    assert is_span(sentence, f"{sentence}.") == bool(tokens(sentence))


@given(SENTENCE, st.data(), st.sampled_from(["not", "never", "only"]))
def test_no_part_leaves_out_a_negation(sentence: str, data: st.DataObject, negation: str) -> None:
    words = sentence.split()
    at = data.draw(st.integers(0, len(words)))
    source = [*words[:at], negation, *words[at:]]
    begin = data.draw(st.integers(0, len(words) - 1))
    answer = words[begin : data.draw(st.integers(begin + 1, len(words)))]
    assert not is_span(" ".join(answer), " ".join(source))


@given(SENTENCE, st.data())
def test_words_of_a_part_stand_together_and_in_order(sentence: str, data: st.DataObject) -> None:
    answer = data.draw(st.lists(WORD, min_size=1, max_size=5))
    if is_span(" ".join(answer), sentence):
        assert f" {' '.join(tokens(' '.join(answer)))} " in f" {' '.join(tokens(sentence))} "


@pytest.mark.parametrize("answer", ["~5 kg", "≈ 5 kg", "5 kg?", "<5 kg", "5, kg"])
def test_signs_that_the_sentence_does_not_have_are_refused(answer: str) -> None:
    assert is_span("5 kg", "The rope holds 5 kg.")
    assert not is_span(answer, "The rope holds 5 kg.")


def test_a_part_longer_than_a_short_answer_is_refused() -> None:
    words = [f"word{n}" for n in range(LONGEST + 1)]
    assert not is_span(" ".join(words), f"The {' '.join(words)} end.")
