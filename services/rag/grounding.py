"""What may be passed off as an answer: the check of each generated sentence against its passage.

The check is strict on purpose. A sentence is supported only if one sentence of the passage that it
cites has all its words of meaning, in the same order, and the same words that turn a meaning (not,
only, unless ...). A true paraphrase can fail it; then the passage's own sentence goes out instead,
which is right too. So an answer is right about its source with any model behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.rag.sentences import CITATION, STOP, content, split_sentences, stem, turning, words

# A generated sentence may rest on a sentence a little less relevant than the best, not on any.
RELEVANCE_MARGIN = 0.08


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
    support: float


def covered(sentence: str, source: str) -> float:
    """The share of the sentence's words of meaning that the source has, in the same order (longest common subsequence)."""
    ours, theirs = content(sentence), content(source)
    if not ours:
        return 0.0
    row = [0] * (len(theirs) + 1)
    for mine in ours:
        diagonal = 0
        for j, their in enumerate(theirs, 1):
            diagonal, row[j] = row[j], diagonal + 1 if mine == their else max(row[j], row[j - 1])
    return row[-1] / len(ours)


def supports(sentence: str, source: str) -> float:
    """How well a passage's sentence supports a generated one, 0 to 1; under 1 it does not."""
    return covered(sentence, source) if turning(sentence) == turning(source) else 0.0


def overlap(question: str, sentence: str, context: str) -> float:
    """The share of the question's words of meaning found in the sentence, half as much in what it stands under."""
    asked = {stem(w) for w in words(question) if w not in STOP}
    if not asked:
        return 0.0
    here, above = set(content(sentence)), set(content(context))
    return sum(1.0 if w in here else 0.5 if w in above else 0.0 for w in asked) / len(asked)


def relevance(question: str, sentence: str, context: str, similarity: float) -> float:
    """How likely a sentence answers a question, 0 to 1: likeness of meaning (the reranker's, -1 to 1) and shared words.

    ``context`` is the title and headings that the sentence stands under.
    """
    likeness = min(1.0, max(0.0, (similarity - 0.2) / 0.6))
    return 0.5 * likeness + 0.5 * overlap(question, sentence, context)


def parse_generated(text: str) -> list[tuple[str, list[int]]]:
    """(sentence without its citations, cited numbers) for each generated sentence."""
    found: list[tuple[str, list[int]]] = []
    for piece in split_sentences(CITATION.sub(lambda m: f" [{m.group(1)}]", text)):
        numbers = [int(n) for n in CITATION.findall(piece)]
        bare = CITATION.sub("", piece).strip()
        if bare:
            found.append((bare, numbers))
        elif numbers and found:
            found[-1][1].extend(numbers)
    return found


def ground(sentence: str, cited: Sequence[int], sources: Sequence[Source]) -> Grounded | None:
    """The sentence with the source that supports it; a wrong or missing number is set right. None where none does.

    Cited passages come first; a source far less relevant than the best does not make a sentence an answer.
    """
    best = max((s.relevance for s in sources), default=0.0)
    fitting = [s for s in sources if s.relevance >= best - RELEVANCE_MARGIN and supports(sentence, s.sentence) >= 1.0]
    if not fitting:
        return None
    chosen = max(fitting, key=lambda s: (s.number in cited, s.relevance))
    return Grounded(f"{sentence} [{chosen.number}]", chosen, True, 1.0)


def quote(sources: Sequence[Source], threshold: float) -> Grounded | None:
    """The most relevant sentence as a quotation; None where none is relevant enough."""
    best = max(sources, key=lambda s: s.relevance, default=None)
    if best is None or best.relevance < threshold:
        return None
    return Grounded(f"“{best.sentence}” [{best.number}]", best, False, 1.0)
