"""Words, for the check of citations."""

from __future__ import annotations

import re


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


CITATION = re.compile(r"\s*\[(\d{1,3})\]")
# Numbers in brackets of a source's own, as "[3]" or "[1, 2]"; and those that are references, not an index as in "array[2]".
_NUMBERS = r"\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\]"
BRACKETED, REFERENCE = re.compile(_NUMBERS), re.compile(r"(?:^|(?<=[\s.,;:!?)\]\"”»]))" + _NUMBERS)
WORD = re.compile(r"\d+(?:[.,:]\d+)*%?|[^\W\d_]+(?:['’][^\W\d_]+)?", re.UNICODE)
# For the strict comparison: words, numbers, and signs that belong to a number or an amount.
TOKEN = re.compile(WORD.pattern + r"|[-+±<>=≤≥€$£¥%°/@#&_]", re.UNICODE)
ARTICLES = frozenset(("a", "an", "the"))
STOP = word_set(
    "a an the of in on at by for from to with and or as is are was were be been being am do does did has have had it its this that "
    "these those there their they he she his her him them we our you your i my me which who whom whose what when where why how "
    "will would can could may might shall should must also then than so such into about over under between through during each any "
    "some very just s t"
)

# Words of questions that a passage which answers need not share.
VAGUE = word_set(
    "all already another become became called come down first get give go if kind make many much name no not off one only other "
    "out own same sort take two type up use used"
)
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{2,}")


def stem(word: str) -> str:
    """A crude stem, enough to match plural and tense: the same rule on both sides of a comparison."""
    if not word.isalpha() or len(word) < 4:
        return word
    for ending in ("ingly", "edly", "ing", "ied", "ies", "ed", "es", "ly", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def words(text: str) -> list[str]:
    """Lower-case words and numbers in order; negated contractions become "not"."""
    found = []
    for raw in WORD.findall(text):
        word = raw.lower().replace("’", "'")
        if word.endswith("n't"):
            found += [word[:-3], "not"]
        elif word[0].isalnum():
            found.append(word.removesuffix("'s"))
    return found


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and signs in order, without articles and punctuation."""
    found = (t.lower().replace("’", "'") for t in TOKEN.findall(text))
    return [t for t in found if t not in ARTICLES]


def content(text: str, beside: frozenset[str] = frozenset()) -> list[str]:
    """Stems of the words that carry meaning, in order, without those in ``beside``; of scripts that do not part words, each two
    neighbouring characters."""
    found = []
    for word in words(text):
        if UNSPACED.fullmatch(word):
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        elif word not in STOP and word not in beside:
            found.append(stem(word))
    return found
