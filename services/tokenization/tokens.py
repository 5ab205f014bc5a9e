"""The work of the tokenization service, on plain values."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from weakref import WeakKeyDictionary

import numpy as np
from icu4py.breakers import WordBreaker
from tokenizers import Encoding

from services.runtime.models import Card
from services.runtime.sentences import sentence_spans

PART_CHARACTERS = 50_000
_LENGTHS: WeakKeyDictionary[Card, np.ndarray] = WeakKeyDictionary()
# What makes one character of several: the zero-width joiner, and the tones of skin.
JOINER, SKIN = "\u200d", ("\U0001f3fb", "\U0001f3ff")


@dataclass(frozen=True)
class Chunk:
    """A piece of a text: characters ``start`` to ``end``, its tokens, and whether a sentence was cut at either side."""

    text: str
    start: int
    end: int
    tokens: int
    cut_before: bool
    cut_after: bool


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in parts of up to PART_CHARACTERS together, or of one text: a tokenizer takes memory for all that it reads at
    once."""
    part, size = list[str](), 0
    for text in texts:
        if part and size + len(text) > PART_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def encode(
    card: Card, texts: Sequence[str], *, special: bool, offsets: bool, control: bool = False
) -> Iterator[Encoding]:
    """One encoding a text; without ``offsets`` it has none. ``special``: with the tokens that the model puts around a text;
    ``control``: a text's own control tokens are read as such."""
    tokenizer = card.tokenizer if control else card.data_tokenizer
    work = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    for part in _parts(texts):
        yield from work(part, add_special_tokens=special)


def count(card: Card, texts: Sequence[str], *, special: bool, control: bool = False) -> list[int]:
    return [len(e) for e in encode(card, texts, special=special, offsets=False, control=control)]


def lengths(card: Card) -> np.ndarray:
    """About the most bytes of text that each id stands for, int64 (vocabulary,)."""
    known = _LENGTHS.get(card)
    if known is None:
        tokenizer = card.tokenizer
        vocabulary = range(tokenizer.get_vocab_size())
        known = np.array([1 + len((tokenizer.id_to_token(i) or "").encode()) for i in vocabulary])  # 1: a space between
        _LENGTHS[card] = known
    return known


def starts_word(text: str, at: int) -> bool:
    """Whether a token that begins at ``at`` begins a word (byte-level tokens carry the space before it)."""
    return text[at].isspace() or at == 0 or text[at - 1].isspace()


def after_space(text: str, at: int) -> int:
    """The index of the first character from ``at`` on that is no white space."""
    return next((i for i in range(at, len(text)) if not text[i].isspace()), len(text))


def starts_character(text: str, spans: Sequence[tuple[int, int]], index: int) -> bool:
    """Whether a token begins a character: not a further byte of one, nor what belongs to the one before, as an accent."""
    at = spans[index][0]
    if index == 0 or at < spans[index - 1][1]:
        return index == 0
    return not (
        text[at] == JOINER
        or text[at - 1] == JOINER
        or unicodedata.category(text[at]).startswith("M")
        or SKIN[0] <= text[at] <= SKIN[1]
    )


@lru_cache(1)
def word_starts(text: str) -> set[int]:
    """Where words begin by Unicode's rules and ICU's dictionaries, also in a text without spaces, as Thai or Japanese."""
    return set(accumulate(map(len, WordBreaker(text, "root")), initial=0))


def _last(
    text: str, spans: Sequence[tuple[int, int]], ends: set[int], first: int, most: int, at: int, part: str
) -> int:
    """The token before which a window of at most ``most`` tokens ends: after a sentence where one ends in its second
    half, else between words where it can, else between characters. ``part``: what was tokenized, from
    ``at`` on."""
    last = min(first + most, len(spans))
    if last == len(spans):
        return last
    half = first + most // 2
    whole = [i for i in range(last, first, -1) if starts_character(text, spans, i)]
    sentence = next((i for i in whole if i > half and spans[i - 1][1] in ends), None)
    word = next((i for i in whole if i > half and starts_word(text, spans[i][0])), None)
    if found := sentence or word:
        return found
    begin = word_starts(part)
    word = next((i for i in whole if i > half and spans[i][0] - at in begin), None)
    if found := word or next(iter(whole), None):
        return found
    # One character has more tokens than a window.
    return next((i for i in range(last, len(spans)) if starts_character(text, spans, i)), len(spans))


def chunk(card: Card, text: str, most: int, overlap: int) -> list[Chunk]:
    """Windows of at most ``most`` tokens; each repeats up to ``overlap`` tokens of the one before: whole sentences if at
    least one fits, else words.

    Leading and trailing white space is no part of a window. Every other character is in some window, also one that the
    tokenizer leaves out, as an accent. A window that is cut from its surroundings may have other tokens than there; its own
    count.
    """
    sentences = sentence_spans(text)
    ends = {a + len(text[a:b].rstrip()) for a, b in sentences}
    starts = {b - len(text[a:b].lstrip()) for a, b in sentences}
    chunks: list[Chunk] = []
    at, size = 0, PART_CHARACTERS
    while at < len(text):
        # A part at a time; its last window may be cut by its end and begins the next part.
        stop = min(at + size, len(text))
        part = text[at:stop]
        (encoded,) = card.data_tokenizer.encode_batch([part], add_special_tokens=False)
        spans = [(at + a, at + b) for a, b in encoded.offsets if b > a]
        # Where each token's characters begin, those without a token among them.
        begins = [at, *(a for a, _ in spans[1:]), stop] if spans else [at, stop]
        spans = spans or [(at, stop)]
        first = 0
        while first < len(spans):
            room = most
            while True:
                last = _last(text, spans, ends, first, room, at, part)
                raw = text[begins[first] : begins[last]]
                piece, start = raw.strip(), begins[first] + len(raw) - len(raw.lstrip())
                (tokens,) = count(card, [piece], special=False)
                room = min(room, last - first) - max(1, tokens - most)
                if tokens <= most or room < 1:
                    break
            if last == len(spans) and stop < len(text):
                break
            end = start + len(piece)
            if piece and not (chunks and end <= chunks[-1].end):  # a window of what is repeated says nothing new
                chunks.append(Chunk(piece, start, end, tokens, start not in starts, end not in ends))
            if last == len(spans):
                return chunks
            repeated = [i for i in range(max(last - overlap, first + 1), last) if starts_character(text, spans, i)]
            whole = (i for i in repeated if after_space(text, begins[i]) in starts)
            first = next(whole, next(iter(repeated), last))
        following = begins[first]
        size = PART_CHARACTERS if following > at else 2 * size
        at = following
    return chunks


def fit(costs: Sequence[int], budget: int) -> list[int]:
    """The positions that fit, taken in order; one that is too long is passed over for those after it."""
    kept, used = [], 0
    for position, cost in enumerate(costs):
        if used + cost <= budget:
            kept.append(position)
            used += cost
    return kept
