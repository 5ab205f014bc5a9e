"""Words of texts, for BM25."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vector_search.analysis import ANALYZERS, DEFAULT, LANGUAGES, MOST_BYTES, asked, stored, words

PROTO = Path(__file__).parents[3] / "protos" / "genmesh" / "v1" / "vector_search.proto"


@pytest.mark.parametrize(
    ("analyzer", "text", "expected"),
    [
        ("standard", "Don't e-mail <b>ÄPFEL</b>, 3.5 kg_net!", ["don", "t", "e", "mail", "b", "äpfel", "b", "3", "5", "kg", "net"]),
        ("icu", "Don't pay 3.5 %", ["don't", "pay", "3.5"]),
        ("icu", "ﬁne Straße, Ｆｕｌｌ", ["fine", "strasse", "full"]),
        ("icu", "我们在北京大学学习。", ["我们", "在", "北京", "大学", "学习"]),
        ("icu", "ภาษาไทยง่าย", ["ภาษา", "ไทย", "ง่าย"]),
        ("chinese", "我们在北京大学学习。", ["我们", "在", "北京", "大学", "北京大学", "学习"]),
        ("english", "The wings' slipstreams were studied", ["the", "wing", "slipstream", "were", "studi"]),
        ("german", "Die Häuser der Bürgermeister", ["die", "haus", "der", "burgermeist"]),
        ("english", "…?! — 🙂", []),
    ],
)  # fmt: skip
def test_words(analyzer: str, text: str, expected: list[str]) -> None:
    assert words(analyzer, text) == expected


@given(st.sampled_from(ANALYZERS), st.text(max_size=200))
def test_no_word_has_a_space_in_it_and_case_changes_nothing(analyzer: str, text: str) -> None:
    found = words(analyzer, text)
    assert stored(analyzer, text).split(" ") == (found or [""])
    assert all(word and not any(c in word for c in " \t\n") for word in found)
    assert set(asked(analyzer, text).split()) == set(found)


def test_a_query_has_each_word_once() -> None:
    assert asked("english", "To be, or not to be: being") == "to be or not"


@pytest.mark.parametrize("text", ["word " * 20_000, "语言" * 20_000, "x" * 65_535, "ß" * 32_767])
def test_stored_words_fit_into_a_field_of_milvus(text: str) -> None:
    for analyzer in ("standard", "icu"):
        kept = stored(analyzer, text)
        assert len(kept.encode()) <= MOST_BYTES
        found = kept.split(" ") if kept else []
        assert words(analyzer, text)[: len(found)] == found


def test_stemmers_work_on_threads() -> None:
    text = "running runners ran " * 50
    expected = words("english", text)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(lambda _: words("english", text), range(200)))


def test_the_api_names_every_analyzer() -> None:
    text = PROTO.read_text()
    assert DEFAULT in LANGUAGES
    for analyzer in ANALYZERS:
        assert f'"{analyzer}"' in text
