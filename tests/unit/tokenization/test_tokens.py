"""Chunks cover every token within their limits, whatever the text; and what fits into a budget."""

import unicodedata
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from services.runtime.models import Card
from services.tokenization import tokens
from services.tokenization.tokens import Chunk, chunk, count, encode, fit, lengths, starts_word, word_starts

SENTENCES = "The pump runs at five bar. The valve is closed at night! Is the crew asleep? One two three four five."


@pytest.fixture
def card(make_card: Callable[..., Card]) -> Card:
    return make_card("embedder", task="embed")


@pytest.fixture
def bare(make_card: Callable[..., Card], tmp_path: Path) -> Card:
    """With a tokenizer as BERT's, which leaves accents out."""
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz नमसतहदमकयचलगखइएओरपगीता0123456789.,्িทวนกป"))
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "[SEP]", *letters, *(f"##{c}" for c in letters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[SEP]"])
    made = make_card("bare", task="embed")
    (tmp_path / "bare" / "1" / "weights" / "tokenizer.json").write_text(tokenizer.to_str())
    return made


def spans(card: Card, text: str) -> list[tuple[int, int]]:
    return [(a, b) for a, b in card.tokenizer.encode(text, add_special_tokens=False).offsets if b > a]


def assert_sound(card: Card, text: str, most: int, overlap: int) -> list[Chunk]:
    """The promises of chunk(), for any text."""
    chunks = chunk(card, text, most, overlap)
    covered: set[int] = set()
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text == piece.text.strip()
        assert [piece.tokens] == count(card, [piece.text], special=False)
        assert piece.tokens <= most or len(piece.text) == 1 or "\u200d" in piece.text or marks(piece.text)
        covered.update(range(piece.start, piece.end))
    assert [i for i, c in enumerate(text) if not c.isspace() and i not in covered] == []
    assert [c.start for c in chunks] == sorted(c.start for c in chunks)
    if not overlap:
        assert all(b.start >= a.end for a, b in pairwise(chunks))
        assert "".join("".join(c.text.split()) for c in chunks) == "".join(text.split())
        assert all(a.cut_after == b.cut_before for a, b in pairwise(chunks))
    return chunks


def marks(text: str) -> bool:
    """Whether it has characters of several code points, which are not cut."""
    return any(unicodedata.category(c).startswith("M") or "\U0001f3fb" <= c <= "\U0001f3ff" for c in text)


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
@pytest.mark.parametrize("part", [1, 15, tokens.PART_CHARACTERS])
def test_chunk_keeps_its_promises(
    card: Card, text: str, most: int, overlap: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PART_CHARACTERS", part)
    assert assert_sound(card, text, most, overlap)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120), most=st.integers(8, 40), data=st.data())
def test_chunk_keeps_its_promises_for_any_text(card: Card, text: str, most: int, data: st.DataObject) -> None:
    assert_sound(card, text, most, data.draw(st.integers(0, (most - 1) // 2)))


@pytest.mark.parametrize("most", [8, 20, 1000])
@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते", "ที่", "Cafe\u0301", "cafe\u0301 " * 40, "हिन्दी में " * 40, "\u0301" * 5, "\u200b", "\u0301a", "a \u0301\u0301 b",
        "क्या आप मेरे साथ चलेंगे और हम सब मिलकर खाना खाएंगे " * 12, "वันที่" * 30, "x" * 300 + "\u0301",
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", [1, 15, tokens.PART_CHARACTERS])
def test_what_has_no_token_is_kept(
    bare: Card, text: str, most: int, overlap: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PART_CHARACTERS", part)
    pieces = assert_sound(bare, text, most, overlap)
    if overlap == 0 and " " not in text:
        assert "".join(p.text for p in pieces) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("ab \u0301\u0947\u200b字\n."), max_size=60), most=st.integers(8, 12), data=st.data()
)
def test_what_has_no_token_is_kept_in_any_text(bare: Card, text: str, most: int, data: st.DataObject) -> None:
    assert_sound(bare, text, most, data.draw(st.integers(0, (most - 1) // 2)))


def test_chunks_repeat_whole_sentences_where_one_fits(card: Card) -> None:
    text = " ".join(f"Lamp {i} is lit." for i in range(30))
    found = assert_sound(card, text, 60, 25)
    assert len(found) > 3
    for a, b in pairwise(found):
        assert (a.cut_after, b.cut_before) == (False, False)
        assert b.start < a.end
    assert any(b.cut_before for b in assert_sound(card, "Words go on and on without any stop " * 9, 24, 11))


@pytest.mark.parametrize("text", ["आज मौसम अच्छा है। हम पार्क चलें?", "漢字かな" * 9, "👩‍👩‍👧‍👦 " * 5])
def test_each_chunk_says_something_new(card: Card, text: str) -> None:
    pieces = assert_sound(card, text, 8, 3)
    assert all(a.end < b.end and a.start <= b.start for a, b in pairwise(pieces))


def test_control_tokens_in_data_are_text(bare: Card) -> None:
    assert count(bare, ["a [SEP]"], special=False) == [6]
    assert count(bare, ["a [SEP]"], special=False, control=True) == [2]
    (found,) = encode(bare, ["a [SEP]"], special=False, offsets=True)
    assert "[SEP]" not in found.tokens
    assert [p.text for p in chunk(bare, "a [SEP] b", 8, 0)] == ["a [SEP] b"]


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_nothing_makes_no_text(card: Card, text: str) -> None:
    assert [c.text for c in chunk(card, text, 8, 0) if c.text] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("การเดินทางไปประเทศไทยครั้งแรก", ["การ", "เดิน", "ทาง", "ไป", "ประเทศไทย", "ครั้ง", "แรก"]),
        ("東京都は日本の首都です", ["東京", "都", "は", "日本", "の", "首都", "です"]),
        ("中华人民共和国成立于一九四九年", ["中华", "人民", "共和国", "成立", "于", "一九四九年"]),
    ],
)
def test_words_that_no_space_parts_are_not_cut(card: Card, text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in pairwise(sorted(word_starts(text)))] == words
    longest = max(len(card.tokenizer.encode(word, add_special_tokens=False)) for word in words)
    text, words = "".join([text] * 4), words * 4
    starts = set(accumulate(map(len, words), initial=0))
    pieces = assert_sound(card, text, 2 * longest + 2, 0)
    assert len(pieces) > 1
    assert {p.start for p in pieces} | {p.end for p in pieces} <= starts


def test_a_text_that_fits_is_one_chunk(card: Card) -> None:
    (piece,) = chunk(card, f"  {SENTENCES}\n", 1000, 10)
    assert (piece.text, piece.start, piece.end) == (SENTENCES, 2, 2 + len(SENTENCES))


def test_chunks_end_after_sentences_where_they_can(card: Card) -> None:
    pieces = chunk(card, SENTENCES * 2, 30, 0)
    assert len(pieces) > 1
    assert {p.text[-1] for p in pieces} <= set(".!?")


def test_a_sentence_that_is_cut_is_told(card: Card) -> None:
    long = "It is not the case that " + ", ".join(f"unit {i} in hall {i}" for i in range(20)) + " is off."
    pieces = chunk(card, f"Short. {long} Short again.", 60, 0)
    assert len(pieces) > 3
    assert not pieces[0].cut_before
    assert not pieces[-1].cut_after
    assert any(p.cut_after for p in pieces)
    for piece in chunk(card, SENTENCES * 2, 30, 0):
        assert not piece.cut_before
        assert not piece.cut_after


def test_sentences_without_white_space_between_them_are_kept_whole(card: Card) -> None:
    pieces = chunk(card, "保修期为两年。电池容量是很大。重量为一公斤。" * 3, 60, 0)
    assert len(pieces) > 1
    assert {p.text[-1] for p in pieces} == {"。"}


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


@pytest.mark.parametrize("text", ["a" + "😀" * 6, "ab" + "漢字" * 20, "👩‍👩‍👧‍👦" * 4, "e\u0301" * 30, "👍🏽" * 9])
def test_characters_are_not_cut(card: Card, text: str) -> None:
    pieces = assert_sound(card, text, 8, 0)
    assert len(pieces) > 1
    assert "".join(p.text for p in pieces) == text
    for piece in pieces:
        assert "\ufffd" not in piece.text
        assert not unicodedata.category(piece.text[0]).startswith("M")
        assert piece.text[0] not in "\u200d\U0001f3fd"
        assert piece.text[-1] != "\u200d"


@pytest.mark.parametrize(
    ("text", "at", "expected"), [("a b", 0, True), ("a b", 1, True), ("a b", 2, True), ("ab", 1, False)]
)
def test_starts_word(text: str, at: int, expected: bool) -> None:
    assert starts_word(text, at) is expected


def test_count_and_encode_agree_with_and_without_special_tokens(card: Card) -> None:
    texts = ["", "a", SENTENCES, "😀"]
    for special in (False, True):
        for offsets in (False, True):
            encoded = encode(card, texts, special=special, offsets=offsets)
            assert count(card, texts, special=special) == [len(e.ids) for e in encoded]
    assert [
        b - a for a, b in zip(count(card, texts, special=False), count(card, texts, special=True), strict=True)
    ] == [1] * 4


def test_texts_are_read_a_part_at_a_time(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a", "", "bb" * 10, "c", "dd", "é" * 30]
    whole = [e.ids for e in card.tokenizer.encode_batch(texts)]
    for part in (1, 3, 20, 1000):
        monkeypatch.setattr(tokens, "PART_CHARACTERS", part)
        assert [e.ids for e in encode(card, texts, special=True, offsets=False)] == whole


def test_no_id_stands_for_more_text_than_its_length(card: Card) -> None:
    known = lengths(card)
    assert len(known) == card.tokenizer.get_vocab_size()
    ids = card.tokenizer.encode(SENTENCES).ids
    assert len(card.tokenizer.decode(ids).encode()) <= known[ids].sum()
    assert lengths(card) is known


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
