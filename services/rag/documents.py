"""Documents as sections: headings with the plain text under them."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from genmesh.v1 import rag_pb2 as pb
from markdown_it import MarkdownIt
from markdown_it.token import Token


@dataclass(frozen=True)
class Section:
    """A stretch of text under one chain of headings, outermost first."""

    headings: tuple[str, ...]
    text: str


def _inline(token: Token) -> str:
    """The text of an inline token without its markup."""
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type == "image":
            parts.append(child.content)
    return re.sub(r"\s+", " ", "".join(parts)).strip()


def _blocks(tokens: Sequence[Token]) -> list[tuple[str, int, str]]:
    """(kind, heading level, text) of each block, in order."""
    found: list[tuple[str, int, str]] = []
    row: list[str] | None = None
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and row is not None:
            found.append(("text", 0, " | ".join(row)))
            row = None
        elif token.type == "inline":
            text = _inline(token)
            if row is not None:
                row.append(text)
            elif tokens[i - 1].type == "heading_open":
                found.append(("heading", int(tokens[i - 1].tag[1:]), text))
            elif text:
                found.append(("text", 0, text))
        elif token.type == "html_block":
            text = re.sub(r"\s+", " ", re.sub(r"<!--.*?-->|<[^>]*>", " ", token.content, flags=re.DOTALL)).strip()
            if text:
                found.append(("text", 0, html.unescape(text)))
        elif token.type in ("fence", "code_block"):
            found.append(("text", 0, token.content.strip("\n")))
    return found


def sections(text: str, *, markdown: bool) -> list[Section]:
    """The sections of a document. Plain text is one section without headings."""
    if not markdown:
        body = re.sub(r"[ \t]+", " ", text.replace("\r\n", "\n")).strip()
        return [Section((), body)] if body else []
    found: list[Section] = []
    headings: list[tuple[int, str]] = []
    lines: list[str] = []

    def close() -> None:
        if lines:
            found.append(Section(tuple(name for _, name in headings), "\n".join(lines)))
            lines.clear()

    for kind, level, content in _blocks(MarkdownIt("commonmark").enable("table").parse(text)):
        if kind == "heading":
            close()
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, content))
        else:
            lines.append(content)
    close()
    return found


def is_markdown(document: pb.Document) -> bool:
    if document.format == pb.DOCUMENT_FORMAT_UNSPECIFIED:
        return document.id.lower().endswith((".md", ".markdown"))
    return document.format == pb.DOCUMENT_FORMAT_MARKDOWN


def title_of(document: pb.Document, parts: Sequence[Section]) -> str:
    """Its title; else its first heading; else its id."""
    first = next((section.headings[0] for section in parts if section.headings), "")
    return document.title or first or document.id


def context_line(title: str, headings: Sequence[str]) -> str:
    """What a passage stands under, in one line; it is embedded with the passage."""
    names = [title, *headings]
    return " > ".join(name for i, name in enumerate(names) if name and name not in names[:i])
