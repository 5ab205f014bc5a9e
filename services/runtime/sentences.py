"""Where sentences end, in any language.

``sentencex`` knows the ends of sentences of 244 languages and their abbreviations, but not which language a text is in. Its
English rules serve the languages that we measured (DECISIONS.md) but German, where an ordinal or an abbreviation before a
noun looks like an end. So a sentence ends where the rules of both say so; where a number follows English decides, and
German only about abbreviations. Abbreviations of other scripts are those of a language that is written in them. Latin has
too many languages: a word of one, such as "an" or "bar", is an abbreviation of another.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import sentencex

PART_CHARACTERS = 10_000
# The longest end of a sentence that its own rules look at.
TAIL_CHARACTERS = 64
# What is no sentence by itself: a list's number.
NUMBER = re.compile(r"\s*\(?\d{1,3}[.)]\s*")
# What stands before a number.
BEFORE_NUMBER = re.compile(
    r"\b(?:abs|approx|art|bd|ca|ch|chap|circa|eq|ext|kap|max|min|par|pos|sec|tab|tel|ver|vol|vols|ziff)\.\s*$",
    re.IGNORECASE,
)
# The end of a sentence behind a unit, whose letter is taken for an initial or an abbreviation.
UNIT = re.compile(
    r"\d\s?(?:\w{1,5}/)?"
    r"(?:[kcmµ]?m|[kmµ]?g|[mc]?l|m?s|h|t|[kM]?[WVA]|[kMG]?Hz|[KMGT]i?B|°?C"
    r"|[ксдм]?м|[км]г|м?л|с|сек|мин|ч|т|га|руб|коп|долл|[кМ]?(?:Вт|В|А)|[кМГ]?Гц)\.\s+(?=[^\W\d_])"
)
# A day, a month and a year.
DATE = re.compile(r"\b\d{1,2}\.\s?(?:0?[1-9]|1[0-2])\.\s?\d{2}(?:\d{2})?\b")
# A German ordinal behind what it agrees with; "I am 19." is none.
ORDINAL = re.compile(
    r"\b(?:im|(?<!\bI )am|[vz]om|zu[mr]|beim|ins|de[rmsn]|die|das|(?:k?ein|[msd]ein|ihr|unser|dies|jed)(?:e[mnrs]?)?)"
    r"\s(?:\d{1,3}\.\s?(?:und|oder|bis|[-–/])\s?)?\d{1,3}\.\s+$",
    re.IGNORECASE,
)
# Dots behind a space stand for what is left out.
LEFT_OUT = re.compile(r"\s(?:\.{2,}|…|\.(?:\s\.)+)$")
# A full stop within a word, such as a file's name. Chinese and Japanese have no spaces between sentences.
_LETTER = r"[^\W_\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff]"
WITHIN = re.compile(rf"{_LETTER}\.(?={_LETTER})")
BETWEEN_WORDS = re.compile(r"""[\s./()\[\]{}"'«»„“”‚‘’]""")
# A language of ``sentencex`` whose abbreviations are a script's.
LANGUAGES = {
    "ARABIC": "ar", "ARMENIAN": "hy", "BENGALI": "bn", "CYRILLIC": "ru", "DEVANAGARI": "hi", "ETHIOPIC": "am", "GREEK": "el",
    "GUJARATI": "gu", "GURMUKHI": "pa", "KANNADA": "kn", "MALAYALAM": "ml", "TAMIL": "ta", "TELUGU": "te",
}  # fmt: skip
UKRAINIAN = re.compile("[іїєґІЇЄҐ]")
# Abbreviations before names and numbers that English, German and a script's language lack.
LATIN = """
    Approx approx Arq Avda avda Avv av Dhr dhr Dott Dra EE Exma Excmo Exmo Gral Hr Ilmo Ing Inż inż Jl kap Lic Mevr mevr
    nám Ntra Sig Sigg Sn Sra Sras Sres Srs Srta św TP ul ziff
"""
OTHERS = """
    Ал Вл Дж наб пл пос Св св د أ कु कै डा डॉ पं पू प्रा प्रो मो श्री श्रीमती सुश्री सौ स्व ড ডা ডাঃ মো মোঃ
"""
ABBREVIATIONS = frozenset((LATIN + OTHERS).split())


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


@lru_cache(10_000)
def _abbreviates(word: str, language: str) -> bool:
    """Whether a language has a word with a full stop as an abbreviation."""
    return len(sentencex.get_sentence_boundaries(language, f"a {word}. X")) == 1


def _abbreviation(word: str, ukrainian: bool) -> bool:
    """Whether a word before a full stop and a capital letter is an abbreviation or an initial, though English and German
    do not know it."""
    if word.isascii():
        return word in ABBREVIATIONS
    if word in ABBREVIATIONS or (len(word) == 1 and word.isupper()):
        return True
    language = LANGUAGES.get(unicodedata.name(word[0], "").partition(" ")[0], "")
    return bool(language) and _abbreviates(word, "uk" if ukrainian and language == "ru" else language)


def _is_end(before: str, line: str, end: int, sure: bool, unit: bool, ukrainian: bool) -> bool:
    """Whether what English takes for an end of a line is one. ``before``: the last characters of its sentence; ``sure``:
    whether German takes it for one, too; ``unit``: whether it stands behind a unit."""
    following, sentence = line[end], before.rstrip()
    if not sentence.endswith((".", "…")):
        return sure or following.isdigit()
    if following.islower() or WITHIN.match(line, end - 2):
        return False
    if LEFT_OUT.search(sentence, max(0, len(sentence) - 8)):
        return False
    word = BETWEEN_WORDS.split(sentence.rstrip(". "))[-1]
    if word.isdigit():
        around = DATE.finditer(line, max(0, end - 8), end + 12)
        if ORDINAL.search(before, max(0, len(before) - 24)) or any(date.start() < end < date.end() for date in around):
            return False
    if following.isdigit():
        return not (BEFORE_NUMBER.search(before) or (len(word) > 1 and _abbreviates(word, "de")))
    return unit or (sure and not (word and _abbreviation(word, ukrainian)))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of a text as character ranges with the white space after them; joined they are the text.

    A line's end ends a sentence."""
    found: list[tuple[int, int]] = []
    start = at = 0
    ukrainian = UKRAINIAN.search(text) is not None
    for line in text.splitlines(keepends=True):
        german = _ends(line, "de")
        units = {match.end() for match in UNIT.finditer(line) if line[match.end()].isupper()}
        for end in sorted(_ends(line, "en") | units | {len(line)}):
            if end < len(line):
                before = text[max(start, at + end - TAIL_CHARACTERS) : at + end]
                if NUMBER.fullmatch(text, start, at + end) or not _is_end(
                    before, line, end, end in german, end in units, ukrainian
                ):
                    continue
            if at + end > start:
                found.append((start, at + end))
            start = at + end
        at += len(line)
    return found


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, as they stand there, without the white space around them."""
    return [piece for a, b in sentence_spans(text) if (piece := text[a:b].strip())]
