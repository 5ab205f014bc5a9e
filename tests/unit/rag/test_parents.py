"""Parents: which passages are one, and their text as it stands in the document."""

from __future__ import annotations

from itertools import pairwise

import pytest
from genmesh.v1.tokenization_pb2 import TextChunk
from genmesh.v1.vector_search_pb2 import Entity
from hypothesis import given
from hypothesis import strategies as st

from services.rag.documents import Section
from services.rag.parents import BETWEEN_SECTIONS, Piece, families, joined, parent_of, pieces


def piece(tokens: int, *headings: str) -> Piece:
    return Piece(Section(headings, ""), TextChunk(text="x", token_count=tokens))


@pytest.mark.parametrize(
    ("counts", "parents"),
    [
        ([], []),
        ([500], [(0, 0)]),
        ([90] * 4, [(0, 3)] * 4),
        ([100] * 4, [(0, 3)] * 4),
        ([90] * 5, [(0, 2)] * 3 + [(3, 4)] * 2),  # not four and one
        ([10, 500, 10], [(0, 0), (1, 1), (2, 2)]),
        ([0, 0], [(0, 1), (0, 1)]),
        ([1] * 300, [(0, 255)] * 256 + [(256, 299)] * 44),
    ],
)
def test_parents_are_about_equally_long(counts: list[int], parents: list[tuple[int, int]]) -> None:
    assert families([piece(count) for count in counts], 400) == parents


def test_a_parent_is_under_one_chain_of_headings() -> None:
    found = [piece(9, "a"), piece(9, "a"), piece(9, "a", "b"), piece(9), piece(9, "a")]
    assert families(found, 400) == [(0, 1), (0, 1), (2, 2), (3, 3), (4, 4)]


@given(st.lists(st.tuples(st.integers(0, 120), st.sampled_from("ab"))), st.integers(1, 400))
def test_each_passage_is_in_its_parent_and_no_parent_is_too_long(found: list[tuple[int, str]], most: int) -> None:
    cut = [piece(count, name) for count, name in found]
    parents = families(cut, most)
    assert len(parents) == len(cut)
    for at, (first, last) in enumerate(parents):
        assert first <= at <= last
        assert parents[first : last + 1] == [(first, last)] * (last - first + 1)
        assert len({one.section.headings for one in cut[first : last + 1]}) == 1
        assert first == last or sum(one.chunk.token_count for one in cut[first : last + 1]) <= most


def stored(found: list[Piece]) -> list[Entity]:
    entities = []
    for one in found:
        entity = Entity(text=one.text)
        entity.metadata.update(one.metadata((0, len(found) - 1)))
        entities.append(entity)
    return entities


def chunk(text: str, start: int, end: int, *, before: bool = False, after: bool = False) -> TextChunk:
    return TextChunk(text=text[start:end], start_offset=start, end_offset=end, cut_before=before, cut_after=after)


def test_a_parents_text_is_that_of_the_document() -> None:
    text = "One is here.\n\nTwo is there, and goes on and on. Three."
    cut = [
        chunk(text, 0, 12),
        chunk(text, 14, 27, after=True),
        chunk(text, 28, 47, before=True),
        chunk(text, 41, 54, before=True),  # repeats six characters
    ]
    found = pieces(Section((), text), [(0, one) for one in cut], "")
    assert [one.text for one in found[1:3]] == ["Two is there, …", "… and goes on and on."]
    assert [one.repeats for one in found] == [0, 0, 0, 6]
    entities = stored(found)
    assert joined(entities) == text
    assert joined(entities[1:]) == text[14:]
    # At its ends the marks stay.
    assert joined(entities[2:]) == f"… {text[28:]}"
    assert joined(entities[:2]) == f"{text[:27]} …"


@given(
    st.lists(
        st.tuples(st.text("ab …é字", min_size=1, max_size=9), st.sampled_from(["", " ", "\n", "\n\n"])), min_size=1
    )
)
def test_any_text_comes_back(parts: list[tuple[str, str]]) -> None:
    text, chunks = "", []
    for words, space in parts:
        if one := words.strip():
            text += space if text else ""
            chunks.append(chunk(text + one, len(text), len(text) + len(one), after=True, before=bool(text)))
            text += one
    cut = pieces(Section((), text), [(0, one) for one in chunks], "")
    assert joined(stored(cut)) == (f"{text} …" if chunks else "")


def test_sections_under_the_same_headings_and_long_ones_are_joined() -> None:
    first, second = Section(("h",), "A table follows."), Section(("h",), "a | b")
    found = pieces(first, [(0, chunk(first.text, 0, 16))], "")
    found += pieces(second, [(0, chunk(second.text, 0, 5))], BETWEEN_SECTIONS)
    assert joined(stored(found)) == "A table follows.\na | b"
    long = Section((), "One two.    Three.")  # asked for in two parts
    cut = [(0, chunk("One two. ", 0, 8)), (9, chunk("   Three.", 3, 9))]
    assert joined(stored(pieces(long, cut, ""))) == long.text


def test_little_is_stored_and_nothing_of_a_passage_that_is_its_own_parent() -> None:
    text = f"One.{' ' * 1000}Two."
    cut = pieces(Section((), text), [(0, chunk(text, 0, 4)), (0, chunk(text, 1004, 1008))], "")
    assert [one.metadata((0, 0)) for one in cut] == [{}, {}]
    first, second = stored(cut)
    assert list(first.metadata.fields) == ["_parent"]
    assert sorted(second.metadata.fields) == ["_parent", "_space"]
    assert parent_of(second.metadata.fields, 1) == (0, 1)
    assert parent_of(Entity().metadata.fields, 0) is None
    assert joined([first, second]) == "One.        Two."
    assert all(a.section is b.section for a, b in pairwise(cut))


@pytest.mark.parametrize(
    "forged", [[0, 10**9], [0, 256], [3, 9], [0, 1], [-1, 2], [2, 1], [2], ["0", "4"], "0-4", {"a": 1}]
)
def test_a_parent_that_ingest_cannot_have_written_is_none(forged: object) -> None:
    entity = Entity()
    entity.metadata.update({"_parent": forged})  # type: ignore[dict-item]
    assert parent_of(entity.metadata.fields, 2) is None
