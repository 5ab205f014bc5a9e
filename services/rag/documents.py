"""Documents as sections: headings with the plain text under them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import yaml
from genmesh.v1 import rag_pb2 as pb
from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names
from markdown_it.token import Token

# Blocks within blocks; a list's item is two. What is nested deeper is read as plain text.
MOST_NESTING = 100
FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.{1,65536}?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9-]*)\s*([^>]*)>", re.DOTALL)
# HTML's elements that separate what stands on both sides, and those that do not. What else is in angle brackets is no
# markup: `<question>` says what to put there.
APART = frozenset([*block_names, "br", "pre", "script", "style", "textarea"])
WITHIN = frozenset([
    "a", "abbr", "b", "bdi", "bdo", "big", "button", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img", "input",
    "ins", "kbd", "label", "mark", "meter", "output", "picture", "progress", "q", "rp", "rt", "ruby", "s", "samp", "select",
    "small", "span", "strike", "strong", "sub", "sup", "svg", "time", "tt", "u", "var", "video", "wbr",
])  # fmt: skip
ALONE = frozenset(("br", "hr", "wbr", "img"))  # need no end, and are no placeholders without attributes
# A heading travels with each passage under it; and a run of characters that no language has is a key, an image or code
# for machines.
LONGEST_HEADING, OVERLONG = 200, re.compile(r"([!-~]{100})[!-~]{101,}")


@dataclass(frozen=True)
class Section:
    """A stretch of text under one chain of headings, outermost first."""

    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Block:
    """``level``: of a heading, else 0; ``lines``: one, or a table's rows."""

    level: int
    lines: list[str]


def _left_by(tag: str, ended: set[str]) -> str:
    """What an HTML tag leaves in a text; ``ended``: the elements that end somewhere in it."""
    found = TAG.fullmatch(tag)
    if found is None:  # a comment, a declaration
        return ""
    name, attributes = found[1].lower(), found[2].strip(" /")
    if name in APART | WITHIN and (name in ALONE or name in ended or attributes):
        return " " if name in APART else ""
    return tag


def _ended(tags: Sequence[str]) -> set[str]:
    return {found[1].lower() for tag in tags if tag.startswith("</") and (found := TAG.match(tag))}


class _Html(HTMLParser):
    """The text of a block of HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ended = _ended([found.group() for found in TAG.finditer(source)])
        self.parts: list[str] = []
        self.hidden = ""  # the element whose content is no text
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self.hidden = tag
        self.parts.append(_left_by(self.get_starttag_text() or "", self.ended))

    def handle_endtag(self, tag: str) -> None:
        self.hidden = "" if tag == self.hidden else self.hidden
        self.parts.append(_left_by(f"</{tag}>", self.ended))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def _one_line(parts: Sequence[str]) -> str:
    return re.sub(r"\s+", " ", "".join(parts)).strip()


def _inline(token: Token) -> str:
    """The text of an inline token without its markup."""
    children = token.children or ()
    ended = _ended([child.content for child in children if child.type == "html_inline"])
    parts = []
    for child in children:
        if child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type == "html_inline":
            parts.append(_left_by(child.content, ended))
    return _one_line(parts)


def _blocks(tokens: Sequence[Token]) -> list[Block]:
    """The blocks of a document, in order."""
    found: list[Block] = []
    rows: list[str] | None = None
    cells: list[str] = []
    number = ""  # of a list's item whose text is to come

    def add(text: str) -> None:
        nonlocal number
        if text:
            found.append(Block(0, [number + text]))
            number = ""

    for i, token in enumerate(tokens):
        if token.type == "list_item_open":
            number = f"{token.info}{token.markup} " if token.info else ""
        elif token.type == "table_open":
            rows = []
        elif token.type == "table_close":
            found.append(Block(0, rows or []))
            rows = None
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close" and rows is not None:
            rows.append(" | ".join(cells))
        elif token.type == "inline":
            text = _inline(token)
            if rows is not None:
                cells.append(text)
            elif tokens[i - 1].type == "heading_open":
                found.append(Block(int(tokens[i - 1].tag[1:]), [text]))
            else:
                add(text)
        elif token.type == "html_block":
            add(_one_line(_Html(token.content).parts))
        elif token.type in ("fence", "code_block"):
            add(token.content.strip("\n"))
    return found


def _parts(rows: list[str], most: int) -> list[list[str]]:
    """A table's rows in parts of about ``most`` characters, its first row at the head of each."""
    head, *rest = rows
    parts, size = [[head]], len(head)
    for row in rest:
        if size + len(row) > most and len(parts[-1]) > 1:
            parts.append([head])
            size = len(head)
        parts[-1].append(row)
        size += len(row)
    return parts


def clipped(heading: str) -> str:
    return heading if len(heading) <= LONGEST_HEADING else heading[: LONGEST_HEADING - 1] + "…"


def plain(text: str) -> list[Section]:
    """Text without markup is one section without headings."""
    body = re.sub(r"[ \t]+", " ", text.replace("\r\n", "\n")).strip()
    return [Section((), body)] if body else []


def sections(text: str, *, markdown: bool, table_characters: int = 400) -> list[Section]:
    """The sections of a document; a table of more than ``table_characters`` is sections of its own. Of a run of more than
    200 characters the first 100 are kept."""
    text = OVERLONG.sub(r"\1…", text)
    if not markdown:
        return plain(text)
    tokens = MarkdownIt("commonmark", {"maxNesting": MOST_NESTING}).enable("table").parse(text)
    if any(token.level >= MOST_NESTING - 1 for token in tokens):  # the parser passes over what is nested deeper
        return plain(text)
    found: list[Section] = []
    headings: list[tuple[int, str]] = []
    lines: list[str] = []

    def close() -> None:
        if lines:
            found.append(Section(tuple(name for _, name in headings), "\n".join(lines)))
            lines.clear()

    for block in _blocks(tokens):
        if block.level:
            close()
            while headings and headings[-1][0] >= block.level:
                headings.pop()
            headings.append((block.level, clipped(block.lines[0])))
        elif sum(map(len, block.lines)) > table_characters and len(block.lines) > 1:
            for part in _parts(block.lines, table_characters):
                close()
                lines += part
            close()
        else:
            lines += block.lines
    close()
    return found


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """What a document's YAML head says, as JSON has it, and the text after it. One that is no mapping is text."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(found[1], yaml.BaseLoader)):
            return {}, text
        said = _value(yaml.compose(found[1], yaml.BaseLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, text
    if not isinstance(said, dict):
        return {}, text
    return {name: value for name, value in said.items() if not name.startswith("_") and value is not None}, text[
        found.end() :
    ]


def _value(node: yaml.Node | None) -> Any:
    """A node as JSON has it, by YAML 1.2's core schema: what looks like a date, or "no", is text. ValueError for what JSON
    has not."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(one) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError
        return {_text(key.value): _value(value) for key, value in node.value}
    if not isinstance(node, yaml.ScalarNode):
        return None
    text = _text(node.value)
    if node.style is not None:
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if (word := text.lower()) in ("true", "false") and text in (word, word.upper(), word.capitalize()):
        return word == "true"
    if NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return text


def _text(text: str) -> str:
    text.encode()  # a half of a surrogate pair is no text: UnicodeEncodeError, a ValueError
    return text


def read(document: pb.Document, table_characters: int) -> tuple[dict[str, Any], list[Section]]:
    """What a document's head says, and its sections."""
    text, said = document.text.removeprefix("\ufeff"), dict[str, Any]()
    if markdown := is_markdown(document):
        said, text = front_matter(text)
    return said, sections(text, markdown=markdown, table_characters=table_characters)


def is_markdown(document: pb.Document) -> bool:
    if document.format == pb.DOCUMENT_FORMAT_UNSPECIFIED:
        return document.id.lower().endswith((".md", ".markdown"))
    return document.format == pb.DOCUMENT_FORMAT_MARKDOWN


def title_of(document: pb.Document, parts: Sequence[Section], head: str = "") -> str:
    """Its title; else its head's, else its first heading, else its id."""
    first = next((section.headings[0] for section in parts if section.headings), "")
    return clipped(document.title or head or first or document.id)


def context_line(title: str, headings: Sequence[str]) -> str:
    """What a passage stands under, in one line; it is embedded with the passage."""
    names = [title, *headings]
    return " > ".join(name for i, name in enumerate(names) if name and name not in names[:i])
