"""Chunks cover every token within their limits, whatever the text; and what fits into a budget."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.models import Card
from services.tokenization.tokens import Chunk, chunk, count, encode, fit, starts_word

SENTENCES = "The pump runs at five bar. The valve is closed at night! Is the crew asleep? One two three four five."


@pytest.fixture
def card(make_card: Callable[..., Card]) -> Card:
    return make_card("embedder", task="embed")


def spans(card: Card, text: str) -> list[tuple[int, int]]:
    return [(a, b) for a, b in card.tokenizer.encode(text, add_special_tokens=False).offsets if b > a]


def assert_sound(card: Card, text: str, most: int, overlap: int) -> list[Chunk]:
    """The promises of chunk(), for any text."""
    chunks = chunk(card, text, most, overlap)
    covered: set[int] = set()
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text == piece.text.strip()
        assert 1 <= piece.tokens <= most
        covered.update(range(piece.start, piece.end))
    assert [i for i, c in enumerate(text) if not c.isspace() and i not in covered] == []
    assert sum(c.tokens for c in chunks) >= len(spans(card, text))
    if not overlap:
        assert sum(c.tokens for c in chunks) == len(spans(card, text))
    assert [c.start for c in chunks] == sorted(c.start for c in chunks)
    return chunks


@pytest.mark.parametrize("most", [8, 11, 20, 1000])
@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize(
    "text",
    [
        SENTENCES,
        "a",
        "x" * 100,
        "😀" * 30,
        "👩‍👩‍👧‍👦 é ü 漢字かな مرحبا 🇩🇪" * 4,
        "e\u0301" * 40,
        "line\n\nline\r\n\tline   " * 10,
        "no sentence ends here and words go on and on without any stop at all",
        "   leading and trailing   ",
    ],
)
def test_chunk_keeps_its_promises(card: Card, text: str, most: int, overlap: int) -> None:
    assert assert_sound(card, text, most, overlap)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120), most=st.integers(8, 40), data=st.data())
def test_chunk_keeps_its_promises_for_any_text(card: Card, text: str, most: int, data: st.DataObject) -> None:
    assert_sound(card, text, most, data.draw(st.integers(0, (most - 1) // 2)))


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_nothing_makes_no_text(card: Card, text: str) -> None:
    assert [c.text for c in chunk(card, text, 8, 0) if c.text] == []


def test_a_text_that_fits_is_one_chunk(card: Card) -> None:
    (piece,) = chunk(card, f"  {SENTENCES}\n", 1000, 10)
    assert (piece.text, piece.start, piece.end) == (SENTENCES, 2, 2 + len(SENTENCES))


def test_chunks_end_after_sentences_where_they_can(card: Card) -> None:
    pieces = chunk(card, SENTENCES * 2, 30, 0)
    assert len(pieces) > 2
    assert {p.text[-1] for p in pieces} <= set(".!?")


def test_chunks_end_between_words_where_no_sentence_ends(card: Card) -> None:
    text = "pump borealis nordwerk crew quixotic " * 12
    pieces = chunk(card, text, 20, 0)
    assert len(pieces) > 3
    assert {word for p in pieces for word in p.text.split()} == set(text.split())
    assert " ".join(p.text for p in pieces) == text.strip()


def test_a_chunk_repeats_as_much_as_asked_of_the_one_before(card: Card) -> None:
    text = "abcdefghij" * 10
    plain, overlapping = chunk(card, text, 10, 0), chunk(card, text, 10, 4)
    assert all(a.end == b.start for a, b in pairwise(plain))
    ends = {b: i for i, (_, b) in enumerate(spans(card, text))}
    starts = {a: i for i, (a, _) in enumerate(spans(card, text))}
    shared = [ends[a.end] + 1 - starts[b.start] for a, b in pairwise(overlapping)]
    assert shared
    assert set(shared) == {4}


def test_emoji_are_cut_between_code_points(card: Card) -> None:
    for piece in chunk(card, "😀😃😄😁" * 10, 9, 0):
        assert set(piece.text) <= set("😀😃😄😁")


@pytest.mark.parametrize(
    ("text", "at", "expected"), [("a b", 0, True), ("a b", 1, True), ("a b", 2, True), ("ab", 1, False)]
)
def test_starts_word(text: str, at: int, expected: bool) -> None:
    assert starts_word(text, at) is expected


def test_count_and_encode_agree_with_and_without_special_tokens(card: Card) -> None:
    texts = ["", "a", SENTENCES, "😀"]
    for special in (False, True):
        assert count(card, texts, special=special) == [len(e.ids) for e in encode(card, texts, special=special)]
    assert [
        b - a for a, b in zip(count(card, texts, special=False), count(card, texts, special=True), strict=True)
    ] == [1] * 4


@pytest.mark.parametrize(
    ("costs", "budget", "kept"),
    [
        ([], 5, []),
        ([1, 2, 3], 6, [0, 1, 2]),
        ([1, 2, 3], 5, [0, 1]),
        ([4, 9, 3, 3], 10, [0, 2, 3]),
        ([6], 5, []),
        ([0, 0], 0, [0, 1]),
        ([1], -1, []),
    ],
)
def test_fit(costs: list[int], budget: int, kept: list[int]) -> None:
    assert fit(costs, budget) == kept


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 200))
def test_fit_never_exceeds_its_budget_and_leaves_out_only_what_did_not_fit(costs: list[int], budget: int) -> None:
    kept = fit(costs, budget)
    assert kept == sorted(set(kept))
    assert sum(costs[i] for i in kept) <= budget
    for i in set(range(len(costs))) - set(kept):
        assert sum(costs[j] for j in kept if j < i) + costs[i] > budget
