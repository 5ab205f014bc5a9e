"""Parents: neighbouring passages under the same headings, read as one text.

A parent's text is stored once, as its passages. Each of them has the parent's first and last position, and how it joins the
one before: the white space between the two, or how many characters it repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any

from genmesh.v1 import tokenization_pb2, vector_search_pb2
from google.protobuf.struct_pb2 import Value

from services.rag.documents import Section

NOTHING = Value()
CUT_BEFORE, CUT_AFTER = "… ", " …"
MOST_SPACE, MOST_PASSAGES = 8, 256
BETWEEN_SECTIONS = "\n"  # under the same headings: a table, and what stands around it


@dataclass(frozen=True)
class Piece:
    """A passage as it is cut from a document. ``space``, ``repeats``: see above; of the first passage of a document "" and 0."""

    section: Section
    chunk: tokenization_pb2.TextChunk
    space: str = ""
    repeats: int = 0

    @property
    def text(self) -> str:
        before, after = CUT_BEFORE if self.chunk.cut_before else "", CUT_AFTER if self.chunk.cut_after else ""
        return f"{before}{self.chunk.text}{after}"

    def metadata(self, parent: tuple[int, int]) -> dict[str, Any]:
        """What is stored of it besides its text; nothing where it is its own parent."""
        if parent[0] == parent[1]:
            return {}
        joins: dict[str, Any] = {"_space": self.space, "_repeats": self.repeats}
        cuts = {"_cut_before": self.chunk.cut_before, "_cut_after": self.chunk.cut_after}
        return {"_parent": list(parent)} | {name: value for name, value in (joins | cuts).items() if value}


def pieces(section: Section, chunks: Sequence[tuple[int, tokenization_pb2.TextChunk]], before: str) -> list[Piece]:
    """The passages of a section, each cut from the text that begins at a character of it; ``before``: the white space between
    the section and what stands before it under the same headings."""
    found, end = list[Piece](), 0
    for offset, chunk in chunks:
        start = offset + chunk.start_offset
        space = section.text[end:start] if found else before
        found.append(Piece(section, chunk, space[:MOST_SPACE], max(0, end - start)))
        end = offset + chunk.end_offset
    return found


def families(found: Sequence[Piece], most: int) -> list[tuple[int, int]]:
    """For each passage the first and last position of its parent. Parents under the same headings are about equally long, and
    of ``most`` tokens and MOST_PASSAGES or less, unless one passage has more."""
    parents: list[tuple[int, int]] = []
    for _, group in groupby(found, key=lambda piece: piece.section.headings):
        counts = [piece.chunk.token_count for piece in group]
        fair = sum(counts) / max(1, ceil(sum(counts) / most)) or most
        size = tokens = 0
        for count in [*counts, most + 1]:  # the last one closes the parent before it
            if size and (tokens + count > most or tokens >= fair or size == MOST_PASSAGES):
                parents += [(len(parents), len(parents) + size - 1)] * size
                size = tokens = 0
            size, tokens = size + 1, tokens + count
    return parents


def parent_of(metadata: Mapping[str, Value], position: int) -> tuple[int, int] | None:
    """The parent that a stored passage's metadata names; None where Ingest cannot have written it: Upsert takes anything."""
    values = [int(one.number_value) for one in metadata.get("_parent", NOTHING).list_value.values]
    if len(values) != 2 or not 0 <= values[0] <= position <= values[1] < values[0] + MOST_PASSAGES:
        return None
    return values[0], values[1]


def joined(passages: Sequence[vector_search_pb2.Entity]) -> str:
    """A parent's text, of all its passages in order: as it stands in the document."""
    text = ""
    for at, entity in enumerate(passages):
        ours, own = entity.metadata.fields, entity.text
        if at and ours.get("_cut_before", NOTHING).bool_value:
            own = own.removeprefix(CUT_BEFORE)
        if at < len(passages) - 1 and ours.get("_cut_after", NOTHING).bool_value:
            own = own.removesuffix(CUT_AFTER)
        repeats = int(ours.get("_repeats", NOTHING).number_value) if at else 0
        text += (ours.get("_space", NOTHING).string_value if at else "") + own[repeats:]
    return text
