"""The work of the tokenization service, on plain values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from services.runtime.models import Card

# The end of a sentence or paragraph, with the white space after it.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class Chunk:
    """A piece of a text: characters ``start`` to ``end``, and its tokens."""

    text: str
    start: int
    end: int
    tokens: int


def encode(card: Card, texts: Sequence[str], *, special: bool) -> list[Encoding]:
    found: list[Encoding] = card.tokenizer.encode_batch(list(texts), add_special_tokens=special)
    return found


def count(card: Card, texts: Sequence[str], *, special: bool) -> list[int]:
    return [len(e.ids) for e in card.tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)]


def starts_word(text: str, at: int) -> bool:
    """Whether a token that begins at ``at`` begins a word (byte-level tokens carry the space before it)."""
    return text[at].isspace() or at == 0 or text[at - 1].isspace()


def chunk(card: Card, text: str, most: int, overlap: int) -> list[Chunk]:
    """Windows of at most ``most`` tokens; each repeats up to ``overlap`` tokens of the one before.

    A window ends after a sentence where one ends in its second half, else between words where it can.
    Leading and trailing white space is no part of a window. Every token is in some window.
    """
    spans = [(a, b) for a, b in card.tokenizer.encode(text, add_special_tokens=False).offsets if b > a]
    ends = {m.start() for m in SENTENCE_END.finditer(text)} | {len(text.rstrip())}
    chunks = []
    first = 0
    while first < len(spans):
        last = min(first + most, len(spans))  # exclusive
        if last < len(spans):
            half = first + most // 2
            sentence = next((i for i in range(last, half, -1) if spans[i - 1][1] in ends), None)
            word = next((i for i in range(last, half, -1) if starts_word(text, spans[i][0])), None)
            last = sentence or word or last
        start, end = spans[first][0], spans[last - 1][1]
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        chunks.append(Chunk(piece.strip(), start, start + len(piece.strip()), last - first))
        if last == len(spans):
            break
        first = max(last - overlap, first + 1) if overlap else last
    return chunks


def fit(costs: Sequence[int], budget: int) -> list[int]:
    """The positions that fit, taken in order; one that is too long is passed over for those after it."""
    kept, used = [], 0
    for position, cost in enumerate(costs):
        if used + cost <= budget:
            kept.append(position)
            used += cost
    return kept
