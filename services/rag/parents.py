"""Parents: neighbouring passages under the same headings, read as one text.

A parent's text is stored once, as its passages. Each passage stores the first and last position of its parent and how to append
it to the passage before: with which white space, or without how many repeated characters (overlap).
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
from services.rag.versions import NOTHING

# Marks of a passage that begins or ends within a sentence.
CUT_BEFORE, CUT_AFTER = "… ", " …"
# The most white space stored between two passages (characters), and the most passages of a parent.
MOST_SPACE, MOST_PASSAGES = 8, 256
# Between two sections under the same headings, such as a paragraph and a table.
BETWEEN_SECTIONS = "\n"


@dataclass(frozen=True)
class Piece:
    """A passage as it is cut from a document.

    ``space``: the white space between it and the passage before; ``repeats``: how many characters of that passage it repeats.
    """

    section: Section
    chunk: tokenization_pb2.TextChunk
    space: str = ""
    repeats: int = 0

    @property
    def text(self) -> str:
        before, after = CUT_BEFORE if self.chunk.cut_before else "", CUT_AFTER if self.chunk.cut_after else ""
        return f"{before}{self.chunk.text}{after}"

    def metadata(self, parent: tuple[int, int]) -> dict[str, Any]:
        """The metadata to store with its text; empty if the passage is its own parent."""
        if parent[0] == parent[1]:
            return {}
        joins: dict[str, Any] = {"_space": self.space, "_repeats": self.repeats}
        cuts = {"_cut_before": self.chunk.cut_before, "_cut_after": self.chunk.cut_after}
        return {"_parent": list(parent)} | {name: value for name, value in (joins | cuts).items() if value}


def pieces(section: Section, chunks: Sequence[tuple[int, tokenization_pb2.TextChunk]], before: str) -> list[Piece]:
    """The passages of a section, of chunks and the offsets (in characters) of the texts that they were cut from. ``before``: the
    white space between this section and the one before under the same headings."""
    found, end = list[Piece](), 0
    for offset, chunk in chunks:
        start = offset + chunk.start_offset
        space = section.text[end:start] if found else before
        found.append(Piece(section, chunk, space[:MOST_SPACE], max(0, end - start)))
        end = offset + chunk.end_offset
    return found


def families(found: Sequence[Piece], most: int) -> list[tuple[int, int]]:
    """The first and last position of each passage's parent. Parents under the same headings have about the same length, at most
    ``most`` tokens (unless a single passage has more) and MOST_PASSAGES passages."""
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
    """The parent that a stored passage's metadata names. None if Ingest cannot have written it: a caller of Upsert may write
    any metadata."""
    values = [int(one.number_value) for one in metadata.get("_parent", NOTHING).list_value.values]
    if len(values) != 2 or not 0 <= values[0] <= position <= values[1] < values[0] + MOST_PASSAGES:
        return None
    return values[0], values[1]


def joined(passages: Sequence[vector_search_pb2.Entity]) -> str:
    """A parent's text as it stands in the document, from all of its passages in order."""
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
