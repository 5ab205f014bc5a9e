"""The words of a text, as a BM25 search counts them.

Milvus gets them with spaces between them and splits them there, so that a text has the same words in each of its versions and in the
built-in store; their own analyzers differ.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator

import rjieba
import Stemmer
from icu4py.breakers import WordBreaker

DEFAULT = "english"
# Snowball's; those that are left out are older ones of English and Dutch.
LANGUAGES = sorted(set(Stemmer.algorithms()) - {"porter", "dutch_porter"})
ANALYZERS = ("standard", "icu", "chinese", *LANGUAGES)
MOST_BYTES = 65_535  # of all words with their spaces: a field of Milvus has no more
RUN = re.compile(r"[^\W_]+")
_stemmers = threading.local()  # one is for one thread


def _runs(text: str) -> list[str]:
    return RUN.findall(text)


def _icu(text: str) -> Iterator[str]:
    """By Unicode's boundaries of words (UAX #29), and ICU's dictionaries of Chinese, Japanese, Thai, Lao, Burmese, Khmer."""
    return (part for part in map(str.strip, WordBreaker(text, "en")) if RUN.search(part))


def _chinese(text: str) -> Iterator[str]:
    """By jieba's dictionary; of a long word also the shorter ones in it."""
    return (part for part in map(str.strip, rjieba.cut_for_search(text)) if RUN.search(part))


def _stems(language: str, words: Iterator[str]) -> list[str]:
    mine = _stemmers.__dict__
    if language not in mine:
        mine[language] = Stemmer.Stemmer(language)
    return list(mine[language].stemWords(list(words)))


BREAKERS: dict[str, Callable[[str], list[str] | Iterator[str]]] = {"standard": _runs, "icu": _icu, "chinese": _chinese}


def words(analyzer: str, text: str) -> list[str]:
    """The words of a text in their order: folded to one case and form (NFKC), by the analyzer's boundaries, for a language
    its stems."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if breaker := BREAKERS.get(analyzer):
        return list(breaker(folded))
    return _stems(analyzer, _icu(folded))


def stored(analyzer: str, text: str) -> str:
    """The words as Milvus stores them; those beyond MOST_BYTES are left out, and not found."""
    kept = " ".join(words(analyzer, text)).encode()
    if len(kept) > MOST_BYTES:
        kept = kept[: MOST_BYTES + 1].rpartition(b" ")[0]
    return kept.decode()


def asked(analyzer: str, text: str) -> str:
    """The words of a query, each once; empty where it has none."""
    return " ".join(dict.fromkeys(words(analyzer, text)))
