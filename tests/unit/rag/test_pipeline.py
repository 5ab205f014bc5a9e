"""Which generated text may be checked already, while the rest still streams in."""

import pytest
from genmesh.v1 import rag_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.rag.grounding import parse_generated
from services.rag.pipeline import complete, distinct


@pytest.mark.parametrize(
    ("text", "ready", "rest"),
    [
        ("", "", ""),
        ("The pump", "", "The pump"),
        ("The pump runs.", "", "The pump runs."),  # its citation may follow
        ("The pump runs. [1]", "", "The pump runs. [1]"),
        ("The pump runs [1]. T", "The pump runs [1]. ", "T"),
        ("The pump runs [1]. The valve is closed [2].", "The pump runs [1]. ", "The valve is closed [2]."),
        ("A runs. B runs. C ru", "A runs. B runs. ", "C ru"),
        ("It is approx. 5 m. The", "It is approx. 5 m. ", "The"),
        ("Run. Run. Run.", "Run. Run. ", "Run."),
        ("A line\nAnother", "A line\n", "Another"),
    ],
)
def test_complete(text: str, ready: str, rest: str) -> None:
    assert complete(text) == (ready, rest)


@given(st.text("Ab1 .!?[]\n", max_size=60))
def test_no_text_is_lost_or_doubled(text: str) -> None:
    ready, rest = complete(text)
    assert ready + rest == text


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_however_the_text_is_cut_the_same_sentences_come_out(sizes: list[int]) -> None:
    text = "The pump runs at 5.5 bar [1]. The valve is closed [2]. Dr. Smith left in 1984 [3]."
    pending, found = "", []
    at = 0
    for size in [*sizes, len(text)]:
        pending += text[at : at + size]
        at += size
        ready, pending = complete(pending)
        found += parse_generated(ready)
    assert found + parse_generated(pending) == parse_generated(text)
    assert len(parse_generated(text)) == 3


def test_of_passages_with_the_same_text_the_first_stays() -> None:
    texts = ["a b", "c", "a  b\n", "A b", "c"]
    assert [p.id for p in distinct([pb.Passage(id=str(i), text=t) for i, t in enumerate(texts)])] == ["0", "1", "3"]
