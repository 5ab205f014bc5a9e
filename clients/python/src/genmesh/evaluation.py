"""Quality of retrieval and of answers on a user's own questions: what ``genmesh eval`` reports.

A question lists the documents that answer it, with grades if some answer better than others. If it lists none, the right reply
is that nothing answers. Figures are shares from 0 to 1, and milliseconds at the client; None if there is no such question.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from genmesh.client import Client
from genmesh.v1 import rag_pb2 as pb

# Passages to retrieve; a document's rank is that of its best passage.
PASSAGES = 24
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True)
class Question:
    """``relevant``: grades by document id, above 0; ``gold``: right answers, any of which may stand in the reply; ``history``:
    the messages before it, as in AnswerRequest."""

    question: str
    relevant: dict[str, float] = field(default_factory=dict)
    gold: list[str] = field(default_factory=list)
    filter: str = ""
    history: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Given:
    """The result of a question. ``found``: ids of documents, best first; ``rewritten``: the question as it was searched for,
    if it has a history; ``cited``: of each citation its document's id. The fields of the answer are empty if none was asked for."""

    question: Question
    found: list[str] = field(default_factory=list)
    retrieve_seconds: float = 0.0
    text: str = ""
    grounding: pb.Grounding.ValueType = pb.GROUNDING_UNSPECIFIED
    cited: list[str] = field(default_factory=list)
    quotes: list[str] = field(default_factory=list)
    first_seconds: float = 0.0
    rewritten: str = ""

    @property
    def answered(self) -> bool:
        return self.grounding != pb.GROUNDING_NO_ANSWER

    def details(self) -> dict[str, Any]:
        """The result as a JSON object."""
        one = self.question
        details = {
            "question": one.question, "relevant": one.relevant, "found": self.found, "answer": self.text,
            "grounding": pb.Grounding.Name(self.grounding), "cited": self.cited,
            "ndcg_at_10": ndcg(self.found, one.relevant) if one.relevant else None,
        }  # fmt: skip
        return details | ({"rewritten": self.rewritten} if one.history else {})


def read(text: str) -> list[Question]:
    """Questions from JSON lines; ValueError names the line at fault."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_question(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as failure:
            raise ValueError(f"line {number}: {failure}") from None
    if not found:
        raise ValueError("it has no questions")
    return found


def _question(line: Any) -> Question:
    if not isinstance(line, dict):
        raise TypeError("is no JSON object")
    if unknown := sorted(set(line) - {"question", "relevant", "answers", "filter", "history"}):
        raise ValueError(f"{unknown[0]!r} is none of question, relevant, answers, filter and history")
    if not isinstance(question := line.get("question"), str) or not question.strip():
        raise ValueError("'question' must be text")
    relevant, gold, filter_ = line.get("relevant", []), line.get("answers", []), line.get("filter", "")
    if isinstance(relevant, list):
        relevant = dict.fromkeys(relevant, 1) if all(isinstance(one, str) for one in relevant) else None
    grades = relevant.values() if isinstance(relevant, dict) else [None]
    if not all(isinstance(one, int | float) and math.isfinite(one) and 0 <= one <= 100 for one in grades):
        raise ValueError("'relevant' must be a list of documents' ids, or an object of grades, 0 to 100, by id")
    if not isinstance(gold, list) or not all(isinstance(one, str) and normalized(one) for one in gold):
        raise ValueError("'answers' must be a list of texts")
    if not isinstance(filter_, str):
        raise ValueError("'filter' must be text")
    history = line.get("history", [])
    if not isinstance(history, list) or not all(_is_message(one) for one in history):
        raise ValueError("'history' must be a list of objects with 'role' (user or assistant) and 'content'")
    return Question(question, {name: float(grade) for name, grade in relevant.items() if grade}, gold, filter_, history)


def _is_message(one: Any) -> bool:
    if not isinstance(one, dict) or set(one) != {"role", "content"} or not isinstance(one["content"], str):
        return False
    return one["role"] in ("user", "assistant") and bool(one["content"].strip())


def ndcg(order: Sequence[str], grades: Mapping[str, float], most: int = 10) -> float:
    """Normalized discounted cumulative gain of the first ``most`` documents, 0 to 1, with the gain 2^grade - 1 (Burges et al.
    2005); the ideal order is of all relevant documents."""

    def gain(found: Iterable[float]) -> float:
        return sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(found))

    ideal = gain(sorted(grades.values(), reverse=True)[:most])
    return gain(grades.get(one, 0.0) for one in order[:most]) / ideal if ideal else 0.0


def recall(order: Sequence[str], grades: Mapping[str, float], most: int) -> float:
    """The share of the relevant documents that are among the first ``most``."""
    relevant = {one for one, grade in grades.items() if grade > 0}
    return len(relevant & set(order[:most])) / len(relevant)


def normalized(text: str) -> str:
    """As SQuAD's evaluation compares: lower case, without articles and punctuation."""
    words = re.sub(r"[^\w\s]", "", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def has(text: str, gold: Sequence[str]) -> bool:
    """Whether a text contains one of the gold answers as whole words; in scripts without spaces, as any part of the text."""
    said = f" {normalized(text)} "
    return any((answer if UNSPACED.search(answer) else f" {answer} ") in said for answer in map(normalized, gold))


def ask(
    client: Client, question: Question, wanted: Mapping[str, Any], *, answers: bool, timeout: float, top_k: int = 0
) -> Given:
    """Ask a question, with the request's other fields in ``wanted``. The answer comes before the retrieval, which would fill the
    caches and so shorten the answer's TTFT. ``top_k``: passages of the answer."""
    request = {**wanted, "question": question.question, "history": question.history}
    if question.filter:
        request["filter"] = question.filter
    given = Given(question)
    if answers:
        _answer(client, given, {**request, "top_k": top_k}, timeout)
    begun = time.monotonic()
    response = client.rag.Retrieve({**request, "top_k": PASSAGES}, timeout=timeout)
    given.retrieve_seconds = time.monotonic() - begun
    given.found = list(dict.fromkeys(passage.document_id for passage in response.passages))
    given.rewritten = next((text for query in response.queries if query.stage == "rewrite" for text in query.texts), "")
    return given


def _answer(client: Client, given: Given, request: Mapping[str, Any], timeout: float) -> None:
    begun = time.monotonic()
    with client.rag.StreamAnswer(request, timeout=timeout) as events:
        for event in events:
            if event.HasField("text"):
                given.first_seconds = given.first_seconds or time.monotonic() - begun
                given.text += event.text.text
            elif event.HasField("citation"):
                given.cited.append(event.citation.document_id)
                given.quotes.append(event.citation.quote)
            elif event.HasField("summary"):
                given.grounding = event.summary.grounding


def figures(given: Sequence[Given], *, answers: bool) -> dict[str, float | None]:
    """The figures by name, in the order of NAMES; only those of retrieval unless ``answers``."""
    there = [one for one in given if one.question.relevant]
    gone = [one for one in given if not one.question.relevant]

    def mean(values: Iterable[float]) -> float | None:
        found = list(values)
        return round(fmean(found), 4) if found else None

    def milliseconds(seconds: Iterable[float]) -> float | None:
        found = list(seconds)
        return round(1000 * median(found), 1) if found else None

    found: dict[str, float | None] = {
        "questions": len(given),
        "answerable": len(there),
        "ndcg_at_10": mean(ndcg(one.found, one.question.relevant) for one in there),
        "recall_at_4": mean(recall(one.found, one.question.relevant, 4) for one in there),
        "recall_at_10": mean(recall(one.found, one.question.relevant, 10) for one in there),
        "first_relevant": mean(any(name in one.question.relevant for name in one.found[:1]) for one in there),
    }
    if not answers:
        return found | {"retrieve_ms": milliseconds(one.retrieve_seconds for one in given)}
    gold = [one for one in there if one.question.gold]
    return found | {
        "answered": mean(one.answered for one in there),
        "relevant_cited": mean(any(name in one.question.relevant for name in one.cited) for one in there),
        "citations_relevant": mean(name in one.question.relevant for one in there for name in one.cited),
        "gold_in_answer": mean(has(one.text, one.question.gold) for one in gold),
        "gold_in_answer_or_quote": mean(has(" ".join([one.text, *one.quotes]), one.question.gold) for one in gold),
        "own_words": mean(one.grounding == pb.GROUNDING_SUPPORTED for one in there),
        "abstained_rightly": mean(not one.answered for one in gone),
        "abstained_wrongly": mean(not one.answered for one in there),
        "ttft_ms": milliseconds(one.first_seconds for one in given if one.answered),
        "abstention_ms": milliseconds(one.first_seconds for one in given if not one.answered),
    }


# Names of the figures in a table.
NAMES = {
    "questions": "questions",
    "answerable": "of them answerable",
    "ndcg_at_10": "nDCG@10 of the documents",
    "recall_at_4": "recall@4",
    "recall_at_10": "recall@10",
    "first_relevant": "a relevant document first",
    "retrieve_ms": "Retrieve, median, ms",
    "answered": "answerable: answered",
    "relevant_cited": "answerable: a relevant document cited",
    "citations_relevant": "citations of relevant documents",
    "gold_in_answer": "a gold answer in the reply",
    "gold_in_answer_or_quote": "a gold answer in the reply or a quote",
    "own_words": "answerable: in the model's own words",
    "abstained_rightly": "not answerable: abstained",
    "abstained_wrongly": "answerable: abstained",
    "ttft_ms": "TTFT of answers, median, ms",
    "abstention_ms": "TTFT of abstentions, median, ms",
}


def shown(name: str, value: float | None) -> str:
    """A figure as text, for a table."""
    if value is None:
        return "-"
    if name in ("questions", "answerable") or name.endswith("_ms"):
        return f"{value:.0f}"
    return f"{value:.3f}" if name.startswith("ndcg") else f"{value:.1%}"
