"""Which generated text may be checked already, while the rest still streams in."""

import pytest
from genmesh.v1 import rag_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.rag import prompt
from services.rag.grounding import Source, parse_generated, quote, quoted
from services.rag.pipeline import Checked, complete, read

LOGS = Source(1, "Audit logs are kept for seven years.", 0.7)
BACKUPS = Source(2, "Backups may be kept for a month.", 0.68)
FAR = Source(3, "The pump runs at night.", 0.2)


def said(text: str, size: int = 7, abstains: bool = True) -> list[tuple[str, bool]]:
    """What goes out of a text that comes in pieces, and whether it is the model's."""
    quotation = quote([LOGS, BACKUPS, FAR])
    assert quotation is not None
    checked = Checked([LOGS, BACKUPS, FAR], quotation, abstains=abstains)
    out = [one for at in range(0, len(text), size) for one in checked.add(text[at : at + size])]
    return [(one.text, one.by_model) for one in [*out, *checked.end()]]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("seven years [1]", [("seven years [1]", True)]),
        ("seven years", [("seven years [1]", True)]),
        ("a month [2]", [(f"“{BACKUPS.sentence}” [2]", False)]),
        ("eight years [1]", [(f"“{LOGS.sentence}” [1]", False)]),
        ("at night [3]", [(f"“{LOGS.sentence}” [1]", False)]),
        ("", [(f"“{LOGS.sentence}” [1]", False)]),
        (prompt.NO_ANSWER, []),
        (f"{prompt.NO_ANSWER} But seven years [1].", []),
        (f"{LOGS.sentence} [1] {prompt.NO_ANSWER}", [(f"{LOGS.sentence} [1]", True)]),
    ],
)
def test_only_what_is_checked_goes_out(text: str, out: list[tuple[str, bool]], size: int) -> None:
    assert said(text, size) == out


def test_the_generator_reads_the_best_sentence_or_all_passages() -> None:
    passages, sources = [pb.Passage(text=one.sentence) for one in (LOGS, BACKUPS, FAR)], [LOGS, BACKUPS, FAR]
    quotation = quote(sources)
    assert quotation is not None
    assert read("sentence", "How long?", passages, sources, quotation) == ([LOGS.sentence], [LOGS])
    assert read("passages", "How long?", passages, sources, quotation) == ([p.text for p in passages], sources)


def test_the_generator_reads_the_next_sentence_too_where_that_says_more_about_the_same_thing() -> None:
    planted = Source(1, "It was planted by Greta Hollin.", 0.69)
    sources = [LOGS, planted, FAR]
    quotation = quote(sources)
    assert quotation is not None
    text = f"{LOGS.sentence} {planted.sentence}"
    assert read("sentence", "Who planted the logs?", [], sources, quotation) == ([text], [LOGS, planted])


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("The orchard lies by the river Tarn. [1]", "“It was planted by Greta Hollin.” [1]"),
        ("the river Tarn [1]", "the river Tarn [1]"),
        ("Greta Hollin [1]", "Greta Hollin [1]"),
        ("It was planted by Greta Hollin. [1]", "It was planted by Greta Hollin. [1]"),
        ("Nobody knows [1]", "“It was planted by Greta Hollin.” [1]"),
    ],
)
def test_a_sentence_that_lacks_what_is_asked_after_is_no_answer(text: str, out: str) -> None:
    """Who planted the orchard?"""
    sources = [
        Source(1, "The orchard lies by the river Tarn.", 0.7),
        Source(1, "It was planted by Greta Hollin.", 0.69),
    ]
    checked = Checked(sources, quoted(sources[1]), abstains=False, aside=sources[0])
    assert [one.text for one in (*checked.add(text), *checked.end())] == [out]


def test_the_best_sentence_is_quoted_where_the_word_of_the_model_does_not_count() -> None:
    assert said(prompt.NO_ANSWER, abstains=False) == [(f"“{LOGS.sentence}” [1]", False)]
    assert said(f"{prompt.NO_ANSWER} But seven years [1].", abstains=False) == [(f"“{LOGS.sentence}” [1]", False)]


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
