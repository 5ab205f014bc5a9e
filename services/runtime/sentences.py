"""Where sentences end, in any language.

``sentencex`` knows the ends of sentences of 244 languages and their abbreviations, but not which language a text is in. Its
English rules serve the languages that we measured (DECISIONS.md) but German, where an ordinal or an abbreviation before a
noun looks like an end. So a sentence ends where the rules of both say so; where a number follows English alone decides.
"""

from __future__ import annotations

import re

import sentencex

PART_CHARACTERS = 10_000
# What is no sentence by itself: a list's number.
NUMBER = re.compile(r"\s*\(?\d{1,3}[.)]\s*")
# What stands before a number.
BEFORE_NUMBER = re.compile(
    r"\b(?:abs|approx|art|bd|ca|ch|chap|circa|eq|ext|kap|max|min|par|pos|sec|tab|tel|ver|vol|vols|ziff)\.\s*$",
    re.IGNORECASE,
)
# The end of a sentence behind a unit, whose letter is taken for an initial.
UNIT = re.compile(r"\d\s?(?:[kcmµ]?m|[kmµ]?g|[mc]?l|m?s|h|t|[kM]?[WVA]|[kMG]?Hz|[KMGT]i?B|°?C)\.\s+(?=[^\W\d_])")


def _ends(line: str, language: str) -> set[int]:
    """Where sentences end in a line. A long one is read in parts, each from the last end in the one before: the time that
    ``sentencex`` takes grows with the square of the length."""
    ends: set[int] = set()
    at, size = 0, PART_CHARACTERS
    while True:
        part = line[at : at + size]
        found = {at + int(one["end_index"]) for one in sentencex.get_sentence_boundaries(language, part)}
        if at + size >= len(line):
            return ends | found
        inner = found - {at + len(part)}
        ends |= inner
        at, size = (max(inner), PART_CHARACTERS) if inner else (at, 2 * size)


def _is_end(before: str, following: str, sure: bool) -> bool:
    """Whether what English takes for an end is one; ``sure``: whether German does, too, or it stands behind a unit."""
    if NUMBER.fullmatch(before) or (following.islower() and before.rstrip().endswith(".")):
        return False
    return not BEFORE_NUMBER.search(before) if following.isdigit() else sure


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of a text as character ranges with the white space after them; joined they are the text.

    A line's end ends a sentence."""
    found: list[tuple[int, int]] = []
    start = at = 0
    for line in text.splitlines(keepends=True):
        german = _ends(line, "de")
        units = {match.end() for match in UNIT.finditer(line) if line[match.end()].isupper()}
        sure = german | units
        for end in sorted(_ends(line, "en") | units | {len(line)}):
            if end < len(line) and not _is_end(text[start : at + end], line[end], end in sure):
                continue
            if at + end > start:
                found.append((start, at + end))
            start = at + end
        at += len(line)
    return found


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, as they stand there, without the white space around them."""
    return [piece for a, b in sentence_spans(text) if (piece := text[a:b].strip())]
