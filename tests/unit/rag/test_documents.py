"""Documents as sections: Markdown's headings, tables, code and lists, and plain text."""

import pytest
from genmesh.v1 import rag_pb2 as pb

from services.rag.documents import Section, context_line, is_markdown, sections, title_of


def markdown(text: str) -> list[tuple[tuple[str, ...], str]]:
    return [(s.headings, s.text) for s in sections(text, markdown=True)]


def test_headings_nest_and_a_higher_one_ends_those_below() -> None:
    text = "start\n\n# A\na\n\n## B\nb\n\n### C\nc\n\n## D\nd\n\n# E\ne"
    assert markdown(text) == [
        ((), "start"),
        (("A",), "a"),
        (("A", "B"), "b"),
        (("A", "B", "C"), "c"),
        (("A", "D"), "d"),
        (("E",), "e"),
    ]


def test_skipped_levels() -> None:
    assert markdown("### C\nc\n\n## B\nb\n\n# A\n### X\nx\n\n## Y\ny") == [
        (("C",), "c"),
        (("B",), "b"),
        (("A", "X"), "x"),
        (("A", "Y"), "y"),
    ]


def test_underlined_headings_and_markup_in_headings() -> None:
    assert markdown("Top\n===\n\nsub *one* `two`\n---\ntext") == [(("Top", "sub one two"), "text")]


def test_headings_without_text_make_no_section() -> None:
    assert markdown("# A\n\n## B\n") == []


def test_paragraphs_stand_one_a_line_without_markup() -> None:
    text = "One *two* **three** [four](http://x) `five`\nsix.\n\nSeven  \neight ![a picture](p.png)"
    assert markdown(text) == [((), "One two three four five six.\nSeven eight a picture")]


def test_escapes_and_entities_are_text() -> None:
    assert markdown(r"5 \* 3 &lt; 20 &amp; more") == [((), "5 * 3 < 20 & more")]


def test_tables_stand_row_by_row() -> None:
    text = "# T\n\n| Part | Bar |\n|---|---|\n| *Pump* | 5.5 |\n| Valve | |\n\nafter"
    assert markdown(text) == [(("T",), "Part | Bar\nPump | 5.5\nValve | \nafter")]


@pytest.mark.parametrize(
    "text",
    ["```python\n# no heading\n\n  x = 1\n```", "~~~\n# no heading\n\n  x = 1\n~~~", "    # no heading\n\n      x = 1"],
)
def test_code_stays_as_it_is_and_holds_no_headings(text: str) -> None:
    assert markdown(f"# H\n\n{text}\n\nafter") == [(("H",), "# no heading\n\n  x = 1\nafter")]


def test_lists_and_quotes_stand_one_item_a_line() -> None:
    text = "- one\n- two\n  - three\n\n1. four\n\n> five\n> six"
    assert markdown(text) == [((), "one\ntwo\nthree\nfour\nfive six")]


@pytest.mark.parametrize("text", ["", "  \n\n", "---", "# \n"])
def test_nothing_makes_no_section(text: str) -> None:
    assert markdown(text) == []


def test_plain_text_is_one_section_whatever_it_looks_like() -> None:
    text = "\r\n# no heading\r\n\r\na\t\tb   *c*\r\n"
    assert sections(text, markdown=False) == [Section((), "# no heading\n\na b *c*")]
    assert sections(" \n\t", markdown=False) == []


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("a.md", pb.DOCUMENT_FORMAT_UNSPECIFIED, True),
        ("A.MD", pb.DOCUMENT_FORMAT_UNSPECIFIED, True),
        ("a.markdown", pb.DOCUMENT_FORMAT_UNSPECIFIED, True),
        ("a.txt", pb.DOCUMENT_FORMAT_UNSPECIFIED, False),
        ("md", pb.DOCUMENT_FORMAT_UNSPECIFIED, False),
        ("a.md", pb.DOCUMENT_FORMAT_PLAIN_TEXT, False),
        ("a.txt", pb.DOCUMENT_FORMAT_MARKDOWN, True),
    ],
)
def test_is_markdown(name: str, form: pb.DocumentFormat.ValueType, expected: bool) -> None:
    assert is_markdown(pb.Document(id=name, format=form)) is expected


def test_a_document_is_called_by_title_then_heading_then_id() -> None:
    parts = [Section((), "x"), Section(("Top", "Sub"), "y")]
    assert title_of(pb.Document(id="a.md", title="Given"), parts) == "Given"
    assert title_of(pb.Document(id="a.md"), parts) == "Top"
    assert title_of(pb.Document(id="a.md"), [Section((), "x")]) == "a.md"
    assert title_of(pb.Document(id="a.md"), []) == "a.md"


@pytest.mark.parametrize(
    ("title", "headings", "line"),
    [
        ("T", (), "T"),
        ("T", ("A", "B"), "T > A > B"),
        ("A", ("A", "B"), "A > B"),
        ("T", ("A", "", "A"), "T > A"),
        ("", ("A",), "A"),
    ],
)
def test_context_line_names_each_once(title: str, headings: tuple[str, ...], line: str) -> None:
    assert context_line(title, headings) == line
