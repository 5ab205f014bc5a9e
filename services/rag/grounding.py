"""What may be passed off as an answer: the check of each generated sentence against its passage.

The check is strict on purpose: a sentence is supported only if it says, word for word, what one
sentence of the passage says; case, articles and punctuation apart. A looser rule accepts a falsehood
sooner or later (a dropped "not", a moved "only", swapped roles). A true paraphrase fails the check;
then the passage's own sentence goes out instead, which is right too. So an answer is right about its
source with any model behind it.

A short answer may also be a part of one sentence ("Seven years"), in the same words and the same order,
if no word that is left out can change what the part says (``spans.py``). That check rests on lists of
words, so it is weaker than equality: the citation carries the whole sentence beside the short answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.rag.spans import is_span
from services.rag.words import BRACKETED, CITATION, REFERENCE, VAGUE, content, tokens, word_set, words
from services.runtime.sentences import split_sentences

# A generated sentence may rest on a sentence a little less relevant than the best, not on any.
RELEVANCE_MARGIN = 0.08
# Weights in a sentence's relevance: of the words that it shares with the question, and of its passage's score. Of the project's
# forty questions that score finds the right passage for 29, the sentence's alone for 26.
SHARED_WORDS, PASSAGE = 0.05, 0.65
# A sentence that begins with one of these goes on about what the one before it speaks of.
GOING_ON = word_set("it they he she its their his her this these")
# Weight of the question's words that are in the passage, where it is decided whether the passage answers at all (docs/models.md).
COVERED = 0.3
LEADING_CITATIONS = re.compile(r"(?:\s*\[\d{1,3}\])+\s*")


@dataclass(frozen=True)
class Source:
    """A sentence of a numbered passage (from 1), with its relevance to the question, 0 to 1."""

    number: int
    sentence: str
    relevance: float


@dataclass(frozen=True)
class Grounded:
    """What goes out: text with its citation, the source behind it, and whether the model wrote it."""

    text: str
    source: Source
    by_model: bool


def supports(sentence: str, source: str) -> bool:
    """Whether a passage's sentence says what a generated one says; its references to sources of its own may be left out."""
    ours = tokens(sentence)
    return bool(ours) and ours in (tokens(source), tokens(REFERENCE.sub("", source)))


def answers(text: str, source: str) -> bool:
    """Whether a short answer is a part of a passage's sentence that may stand alone."""
    return is_span(text, source) or is_span(text, REFERENCE.sub("", source))


def overlap(question: str, sentence: str, context: str) -> float:
    """The share of the question's words of meaning found in the sentence, half as much in what it stands under."""
    asked = set(content(question))
    if not asked:
        return 0.0
    here, above = set(content(sentence)), set(content(context))
    return sum(1.0 if w in here else 0.5 if w in above else 0.0 for w in asked) / len(asked)


def relevance(question: str, sentence: str, context: str, similarity: float, passage: float) -> float:
    """How likely a sentence answers a question, 0 to 1: the reranker's scores of the sentence (``similarity``) and of its
    passage (``passage``), -1 to 1 each, and the words that question and sentence share.

    ``context`` is the title and headings that the sentence stands under. Shared words decide among sentences with nearly equal
    scores, no more: on ``model_repository/retrieval.jsonl``, whose questions are worded freely, half the weight for them found
    the right passage for 59 % of the questions, this for 79 %.
    """
    likeness, around = (min(1.0, max(0.0, score)) for score in (similarity, passage))
    alone = (1 - SHARED_WORDS) * likeness + SHARED_WORDS * overlap(question, sentence, context)
    return (1 - PASSAGE) * alone + PASSAGE * around


def covered(question: str, passage: str, context: str) -> float:
    """The share of the question's words of meaning that are in a passage, or in what it stands under."""
    asked = set(content(question, VAGUE)) or set(content(question))
    return len(asked & {*content(passage), *content(context)}) / len(asked) if asked else 0.0


def answerability(question: str, relevance: float, passage: str, context: str) -> float:
    """Whether the most relevant sentence's passage answers a question, 0 to 1: that sentence's relevance, and the words of the
    question that the passage has.

    A passage about the same thing that answers another question is nearly as similar as one that answers, but lacks the words
    that the question is about. Figures: docs/models.md.
    """
    return (relevance + COVERED * covered(question, passage, context)) / (1 + COVERED)


def escaped(text: str) -> str:
    """A source's own numbers in brackets as Markdown has brackets that are text: none reads as a citation of ours."""
    return BRACKETED.sub(r"\\[\1\\]", text)


def parse_generated(text: str) -> list[tuple[str, list[int]]]:
    """(sentence without its citations, cited numbers) for each generated sentence.

    A citation belongs to the sentence before it, whether it stands before the full stop or after.
    """
    found: list[tuple[str, list[int]]] = []
    for piece in split_sentences(CITATION.sub(lambda m: f" [{m.group(1)}]", text)):
        if (after := LEADING_CITATIONS.match(piece)) and found:
            found[-1][1].extend(int(n) for n in CITATION.findall(after.group()))
            piece = piece[after.end() :]
        numbers = [int(n) for n in CITATION.findall(piece)]
        bare = CITATION.sub("", piece).strip()
        if bare:
            found.append((bare, numbers))
        elif numbers and found:
            found[-1][1].extend(numbers)
    return found


def ground(sentence: str, cited: Sequence[int], sources: Sequence[Source]) -> Grounded | None:
    """The sentence or short answer with the source that supports it; a wrong or missing number is corrected. None if no source
    supports it.

    A source that says the same comes before one of which it is a part; of each kind, cited passages come first. A source far
    less relevant than the best does not make a sentence an answer.
    """
    near = _near(sources)
    # The model read the source's own numbers in brackets as others (``prompt.py``).
    said = {s: _own_brackets(sentence, s.sentence) for s in near}
    whole = [s for s in near if supports(sentence, s.sentence)]
    fitting = whole or [s for s in near if answers(said[s], s.sentence)]
    if not fitting:
        return None
    chosen = max(fitting, key=lambda s: (s.number in cited, s.relevance))
    text = said[chosen]
    if not whole and text.lower() not in chosen.sentence.lower():
        text = text.removesuffix(".")  # the sentence goes on
    return Grounded(f"{escaped(text)} [{chosen.number}]", chosen, True)


def _own_brackets(text: str, source: str) -> str:
    for numbers in {found[1] for found in BRACKETED.finditer(source)}:
        text = text.replace(f"({numbers})", f"[{numbers}]")
    return text


def located(sentence: str, cited: Sequence[int], sources: Sequence[Source]) -> Grounded | None:
    """The sentence that generated words stand in, as a quotation, though they may not stand for it; None where none is near.

    A model often finds the right sentence, and leaves out what belongs to it.
    """
    ours = tokens(sentence)
    fitting = [s for s in _near(sources) if ours and _within(ours, tokens(s.sentence))]
    return quoted(max(fitting, key=lambda s: (s.number in cited, s.relevance))) if fitting else None


def quote(sources: Sequence[Source]) -> Grounded | None:
    """The most relevant sentence as a quotation; None where there is no sentence."""
    return quoted(max(sources, key=lambda s: s.relevance)) if sources else None


def linked(question: str, sources: Sequence[Source], best: Source) -> list[Source]:
    """The most relevant sentence, and the next one if that goes on with a pronoun ("It was planted ...") and has a word of the
    question that the first lacks."""
    after = sources.index(best) + 1
    if after == len(sources) or sources[after].number != best.number:
        return [best]
    following = sources[after]
    lacks = set(content(question, VAGUE)) - set(content(best.sentence))
    goes_on = words(following.sentence)[:1] and words(following.sentence)[0] in GOING_ON
    return [best, following] if goes_on and lacks & set(content(following.sentence)) else [best]


def quoted(source: Source) -> Grounded:
    """A sentence as a quotation."""
    return Grounded(f"“{escaped(source.sentence)}” [{source.number}]", source, False)


def _near(sources: Sequence[Source]) -> list[Source]:
    """Those little less relevant than the best."""
    best = max((s.relevance for s in sources), default=0.0)
    return [s for s in sources if s.relevance >= best - RELEVANCE_MARGIN]


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))
