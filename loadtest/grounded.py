"""How good grounded answers are: questions in SQuAD's format through a running cluster, with their paragraph and without it.

    python -m loadtest.grounded --target 127.0.0.1:8080 --key gm_... --squad xquad-en.json [--articles 5 7 15 18 22]

Every paragraph of the file becomes a document; the questions are those of ``--articles``, or of all. Without its paragraph
means that a filter leaves it out, its article's others stay. "Own words": not a quotation. "Gold answer": one of the question's
gold answers stands in the reply (or in the sentences that it cites), compared in lower case without articles and punctuation.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from genmesh import Client
from genmesh.evaluation import has
from genmesh.v1 import rag_pb2 as pb

from loadtest.squad import paragraphs

COLLECTION = "loadtest-grounded"


@dataclass(frozen=True)
class Asked:
    """A question, its gold answers, the document that answers it, and whether that was left out."""

    question: str
    gold: list[str]
    document: str
    left_out: bool


@dataclass(frozen=True)
class Given:
    """A reply, and the seconds until its first text."""

    asked: Asked
    text: str
    grounding: int
    citations: list[pb.Citation]
    first: str  # the document of the best passage
    ttft: float


def ask(client: Client, asked: Asked) -> Given:
    request = {
        "question": asked.question,
        "collection": COLLECTION,
        "filter": f'paragraph != "{asked.document}"' if asked.left_out else "",
    }
    begun, ttft, text, grounding, first = time.monotonic(), 0.0, "", 0, ""
    citations: list[pb.Citation] = []
    for event in client.rag.StreamAnswer(request, timeout=300):
        kind = event.WhichOneof("event")
        if kind == "text":
            ttft = ttft or time.monotonic() - begun
            text += event.text.text
        elif kind == "passages":
            first = event.passages.passages[0].document_id if event.passages.passages else ""
        elif kind == "citation":
            citations.append(event.citation)
        elif kind == "summary":
            grounding = event.summary.grounding
    return Given(asked, text, grounding, citations, first, ttft)


def figures(given: list[Given]) -> dict[str, float]:
    """Shares in percent, TTFT in milliseconds."""
    there = [one for one in given if not one.asked.left_out]
    gone = [one for one in given if one.asked.left_out]

    def share(found: list[bool]) -> float:
        return round(100 * sum(found) / max(1, len(found)), 1)

    def none(one: Given) -> bool:
        return one.grounding == pb.GROUNDING_NO_ANSWER

    def milliseconds(seconds: list[float]) -> float:
        return round(1000 * median(seconds), 1) if seconds else 0.0

    return {
        "questions with their paragraph": len(there),
        "right passage ranked first": share([one.first == one.asked.document for one in there]),
        "right document cited": share(
            [any(c.document_id == one.asked.document for c in one.citations) for one in there]
        ),
        "right document cited, of the answers": share(
            [any(c.document_id == one.asked.document for c in one.citations) for one in there if not none(one)]
        ),
        "gold answer in the reply": share([has(one.text, one.asked.gold) for one in there]),
        "gold answer in the reply or the sentences that it cites": share(
            [has(" ".join([one.text, *(c.quote for c in one.citations)]), one.asked.gold) for one in there]
        ),
        "reply in the model's own words": share([one.grounding == pb.GROUNDING_SUPPORTED for one in there]),
        "wrongly abstained": share([none(one) for one in there]),
        "questions without their paragraph": len(gone),
        "abstained": share([none(one) for one in gone]),
        "TTFT of the answers, median": milliseconds([one.ttft for one in given if not none(one)]),
        "time to say that nothing answers, median": milliseconds([one.ttft for one in given if none(one)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--articles", type=int, nargs="*", help="numbers of articles, from 0")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print each reply")
    args = parser.parse_args()
    documents, questions = [], []
    for number, name, paragraph in paragraphs(args.squad):
        documents.append({"id": name, "text": paragraph["context"], "metadata": {"paragraph": name}})
        if args.articles is None or number in args.articles:
            for one in paragraph["qas"]:
                gold = [answer["text"] for answer in one["answers"]]
                questions += [Asked(one["question"], gold, name, left_out) for left_out in (False, True)]
    with Client(args.target, api_key=args.key) as client:
        list(client.rag.Ingest(iter({"collection": COLLECTION, "document": one} for one in documents), timeout=1800))
        try:
            with ThreadPoolExecutor(args.clients) as pool:
                given = list(pool.map(lambda asked: ask(client, asked), questions))
        finally:
            client.vector_search.DeleteCollection({"collection": COLLECTION})
    if args.show:
        for one in given:
            print(json.dumps([one.asked.left_out, one.asked.question, one.asked.gold, one.text], ensure_ascii=False))
    for name, value in figures(given).items():
        print(f"{value:8g}  {name}")


if __name__ == "__main__":
    main()
