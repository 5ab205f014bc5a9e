"""Documents as sections: Markdown's headings, tables, code and lists, and plain text."""

import pytest
from genmesh.v1 import rag_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from services.rag.documents import Section, context_line, front_matter, is_markdown, sections, title_of


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
    text = "- one\n- two\n  - three\n\nso:\n\n> five\n> six"
    assert markdown(text) == [((), "one\ntwo\nthree\nso:\nfive six")]


def test_numbers_of_a_list_stay() -> None:
    text = "1. Stop the writer.\n2. Copy *the* archive:\n   - all of it\n\n   and more.\n3. Start it.\n\n7) seven\n8) eight"
    assert markdown(text) == [
        ((), "1. Stop the writer.\n2. Copy the archive:\nall of it\nand more.\n3. Start it.\n7) seven\n8) eight")
    ]


@pytest.mark.parametrize(("bullet", "levels"), [("- ", 14), ("1. ", 14), ("> ", 25)])
def test_what_is_nested_deep_stays(bullet: str, levels: int) -> None:
    if bullet == "> ":
        text = bullet * levels + "quoted 42"
        assert markdown(text) == [((), "quoted 42")]
        return
    text = "".join(" " * len(bullet) * i + f"{bullet}level {i} has code {1000 + i}\n" for i in range(levels))
    (section,) = sections(text, markdown=True)
    assert [line.removeprefix("1. ") for line in section.text.split("\n")] == [
        f"level {i} has code {1000 + i}" for i in range(levels)
    ]


@pytest.mark.parametrize("levels", [49, 50, 99, 100, 101, 400])
def test_what_is_nested_too_deep_is_plain_text(levels: int) -> None:
    assert "quoted 42" in " ".join(text for _, text in markdown("> " * levels + "quoted 42"))


def test_placeholders_are_no_markup() -> None:
    text = "Run genmesh ask <question> with the key <KEY> and `<x>`, <b>boldly</b> or <a href='x'>so</a>, not <input>."
    assert markdown(text) == [((), "Run genmesh ask <question> with the key <KEY> and <x>, boldly or so, not <input>.")]


def test_html_leaves_its_text() -> None:
    text = (
        "<p>Latency must be < 5 ms and throughput > 100 per s</p>\n\n<div><ul><li>one</li><li>t&amp;o</li></ul>"
        "<script>var x = 1;</script><!-- hidden --></div>\n\nOne<br>two<br/>three.<!-- no -->\n\n<PLACE>\n\n| a | b |\n"
        "|---|---|\n| 10 MB<br>20 MB | 1<br/>2 |"
    )
    assert markdown(text) == [
        (
            (),
            "Latency must be < 5 ms and throughput > 100 per s\none t&o\nOne two three.\n<PLACE>\na | b\n10 MB 20 MB | 1 2",
        )
    ]


def test_runs_that_no_language_has_are_cut() -> None:
    for text in ("The key is 42. " + "A" * 70_000 + " The end is near.", "x" * 201):
        for marked in (True, False):
            ((_, kept),) = [(s.headings, s.text) for s in sections(text, markdown=marked)]
            assert max(map(len, kept.split())) == 101
    assert sections("The key is 42. " + "A" * 300 + " The end is near.", markdown=False)[0].text.endswith(
        "A… The end is near."
    )
    assert markdown("电" * 500) == [((), "电" * 500)]


def test_long_headings_are_cut() -> None:
    ((headings, _),) = markdown("# " + "word " * 100 + "\ntext")
    assert [len(name) for name in headings] == [200]
    assert title_of(pb.Document(id="a", title="x" * 900), []) == "x" * 199 + "…"


def test_a_long_table_repeats_its_head() -> None:
    rows = [f"| part {i} | {i} kg |" for i in range(30)]
    text = "\n".join(["# Parts", "", "before", "", "| part | weight |", "|---|---|", *rows, "", "after"])
    found = [s.text for s in sections(text, markdown=True, table_characters=100)]
    assert found[0] == "before"
    assert found[-1] == "after"
    parts = found[1:-1]
    assert all(part.startswith("part | weight\npart ") and len(part) < 130 for part in parts)
    assert [line for part in parts for line in part.split("\n")[1:]] == [f"part {i} | {i} kg" for i in range(30)]
    assert {s.headings for s in sections(text, markdown=True, table_characters=100)} == {("Parts",)}


FRONT = """---
title: The pump
tags: [a, 2]
made: 2026-11-29
checked: true
size: {height: 1.5}
nothing: ~
_document: other
---
# Pump
"""


def test_a_yaml_head_is_metadata() -> None:
    said, rest = front_matter(FRONT)
    assert said == {
        "title": "The pump", "tags": ["a", 2], "made": "2026-11-29", "checked": True, "size": {"height": 1.5},
    }  # fmt: skip
    assert rest == "# Pump\n"
    assert front_matter("---\r\na: 1\r\n---\r\ntext") == ({"a": 1}, "text")


@pytest.mark.parametrize(
    "text",
    [
        "# no head", "---\n\ntext", "---\njust words\n---\n", "---\na: [\n---\nx", "---\n[a]: 1\n---\n",
        "---\na: &a [1]\nb: [*a, *a]\n---\n", "x\n---\na: 1\n---\n", "---\n- a\n---\n", "---\n" + "a: 1\n" * 14000 + "---\n",
    ],
)  # fmt: skip
def test_what_is_no_yaml_head_is_text(text: str) -> None:
    assert front_matter(text) == ({}, text)


@pytest.mark.parametrize(
    "head",
    [
        '!!bool "abc"', '!!timestamp "abc"', '!!int ""', "9" * 400, '"\\ud800"', "[" * 60 + "1" + "]" * 60, "{a: " * 33 + "1" + "}" * 33,
        "[" * 3000 + "]" * 3000, "*a", "&a 1", "!!python/name:os.system", "{? [a] : b}", "\t", "@", "%", "- x", ".inf", ".nan", "<<: 1",
    ],
)  # fmt: skip
def test_a_head_is_read_or_is_text_whatever_it_says(head: str) -> None:
    said, rest = front_matter(text := f"---\na: 1\nb: {head}\n---\nB\n")
    assert (rest, said != {}) in (("B\n", True), (text, False))
    Struct().update(said)


def test_values_of_a_head_are_those_of_yaml_1_2() -> None:
    """No word becomes another."""
    text = "a: 12:30:00\nb: 0123\nc: no\nd: 2024-02-31\n1: x\ntrue: y\nnull: z\ne: '5'\nf: -1.50\ng: TRUE\nh: 1e3\ni: 0x1F\n"
    assert front_matter(f"---\n{text}---\n")[0] == {
        "a": "12:30:00", "b": "0123", "c": "no", "d": "2024-02-31", "1": "x", "true": "y", "null": "z", "e": "5", "f": -1.5,
        "g": True, "h": 1000, "i": "0x1F",
    }  # fmt: skip


@pytest.mark.parametrize(("count", "kept"), [(200, 200), (201, 101)])
def test_what_is_no_language_is_cut(count: int, kept: int) -> None:
    (section,) = sections(f"a {'A' * count} b", markdown=False)
    assert len(section.text) == kept + 4


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
    assert title_of(pb.Document(id="a.md", title="Given"), parts, "Said") == "Given"
    assert title_of(pb.Document(id="a.md"), parts, "Said") == "Said"
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
