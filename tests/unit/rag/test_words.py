"""Words, stems and the words that turn a meaning."""

import pytest

from services.rag.words import VAGUE, content, stem, tokens, words


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("valve", "valves"),
        ("close", "closed"),
        ("close", "closing"),
        ("city", "cities"),
        ("stop", "stopped"),
        ("stop", "stopping"),
        ("quick", "quickly"),
        ("box", "boxes"),
    ],
)
def test_stems_match_plural_and_tense(one: str, two: str) -> None:
    assert stem(one) == stem(two)


@pytest.mark.parametrize(
    ("one", "two"), [("valve", "value"), ("increase", "decrease"), ("five", "four"), ("12", "13"), ("red", "read")]
)
def test_stems_keep_different_words_apart(one: str, two: str) -> None:
    assert stem(one) != stem(two)


@pytest.mark.parametrize("word", ["1984", "3.5", "10%", "is", "bed"])
def test_numbers_and_short_words_have_no_stem_but_themselves(word: str) -> None:
    assert stem(word) == word


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Pump's pressure", ["the", "pump", "pressure"]),
        ("It doesn't run", ["it", "does", "not", "run"]),
        ("It doesn’t run", ["it", "does", "not", "run"]),
        ("3.5 bar, 1,000 m, 10% at 12:30.", ["3.5", "bar", "1,000", "m", "10%", "at", "12:30"]),
        ("A_b-c", ["a", "b", "c"]),
        ("Zürich 漢字 😀", ["zürich", "漢字"]),
        ("", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_content_leaves_out_words_without_meaning_and_keeps_order() -> None:
    assert content("The pumps of the station were closed by 3 men") == [
        stem("pump"), stem("station"), stem("closed"), "3", stem("men"),
    ]  # fmt: skip
    assert content("It is what it was") == []
    assert content("How many pumps of this kind", VAGUE) == [stem("pumps")]
    assert content("How many pumps of this kind") == ["man", stem("pumps"), "kind"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("水泵压力", ["水泵", "泵压", "压力"]),
        ("水", ["水"]),
        ("ポンプ 3 bar", ["ポン", "ンプ", "3", "bar"]),
        ("펌프가 멈췄다", ["펌프가", "멈췄다"]),
    ],
)
def test_content_of_scripts_without_spaces_is_pairs_of_characters(text: str, found: list[str]) -> None:
    assert content(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Pump, a big one, runs.", ["pump", "big", "one", "runs"]),
        ("It was -40 °C; it cost €50.", ["it", "was", "-", "40", "°", "c", "it", "cost", "€", "50"]),
        ("", []),
    ],
)
def test_tokens(text: str, found: list[str]) -> None:
    assert tokens(text) == found
