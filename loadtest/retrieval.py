"""How well documents are found: known questions through a running cluster's Retrieve, search by search.

    python -m loadtest.retrieval --target 127.0.0.1:8080 --key gm_... [--cranfield cranfield.jsonl] [--squad xquad-de.json ...]
                                 [--every 3] [--write docs/retrieval.md]

Cranfield: lines {"document": {id, title, text}} and {"query": text, "relevant": {document id: grade}}; documents without text
are left out. SQuAD's format: each paragraph is a document, and a question's own paragraph the one that is relevant. A
document's place is that of its best passage among the first 24, so many as the reranker gets. nDCG@10 has the gain
2^grade - 1 (Burges et al. 2005), its ideal is of all relevant documents; recall@k is the share of them among the first k.
Milliseconds are a client's, median, one question at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from genmesh import Client
from genmesh.evaluation import PASSAGES, ndcg, recall

from loadtest.squad import paragraphs

COLLECTION = "loadtest-retrieval"
# How each row of the table asks.
ASKED: dict[str, dict[str, Any]] = {
    "vectors": {"search_mode": "SEARCH_MODE_DENSE", "skip_rerank": True},
    "vectors, reranked": {"search_mode": "SEARCH_MODE_DENSE"},
    "words (BM25)": {"search_mode": "SEARCH_MODE_BM25", "skip_rerank": True},
    "hybrid": {"search_mode": "SEARCH_MODE_HYBRID", "skip_rerank": True},
    "hybrid, reranked (the default)": {},
    "the default and parents": {"parents": True},
}
# What the generator has to write for, of a part of the questions; the default again, as others than all are asked.
WRITTEN: dict[str, dict[str, Any]] = {
    "the default": {},
    "the default and 3 reformulations": {"expansions": 3},
    "the default and HyDE": {"hyde": True},
}
BEGIN, END = "<!-- retrieval:begin (written by python -m loadtest.retrieval) -->", "<!-- retrieval:end -->"


@dataclass(frozen=True)
class Known:
    """Documents, and questions with the grades of those that are relevant."""

    name: str
    documents: list[dict[str, Any]]
    questions: list[tuple[str, dict[str, float]]]


def cranfield(path: Path) -> Known:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    documents = [line["document"] for line in lines if line.get("document", {}).get("text", "").strip()]
    questions = [(line["query"], line["relevant"]) for line in lines if any(line.get("relevant", {}).values())]
    return Known("Cranfield", [{**one, "format": "DOCUMENT_FORMAT_PLAIN_TEXT"} for one in documents], questions)


def squad(path: Path) -> Known:
    documents, questions = [], []
    for _, name, paragraph in paragraphs(path):
        documents.append({"id": name, "title": paragraph["title"], "text": paragraph["context"]})
        questions += [(one["question"], {name: 1.0}) for one in paragraph["qas"]]
    return Known(path.stem, documents, questions)


def ingest(client: Client, known: Known) -> float:
    """Take the documents in; the seconds that took."""
    begun = time.monotonic()
    stream: Iterator[dict[str, Any]] = iter({"collection": COLLECTION, "document": one} for one in known.documents)
    for event in client.rag.Ingest(stream, timeout=3600):
        if event.WhichOneof("event") == "failed":
            raise SystemExit(f"{event.failed.document_id}: {event.failed.message}")
    return time.monotonic() - begun


def measured(client: Client, questions: list[tuple[str, dict[str, float]]], **asked: Any) -> list[str]:
    """nDCG@10, recall@4, recall@10 and milliseconds."""
    found, seconds = [], []
    for question, grades in questions:
        begun = time.monotonic()
        request = {"collection": COLLECTION, "question": question, "top_k": PASSAGES, **asked}
        answer = client.rag.Retrieve(request, timeout=60)
        seconds.append(time.monotonic() - begun)
        order = list(dict.fromkeys(passage.document_id for passage in answer.passages))
        found.append((ndcg(order, grades), recall(order, grades, 4), recall(order, grades, 10)))
    figures = [fmean(column) for column in zip(*found, strict=True)]
    return [
        f"{figures[0]:.3f}",
        f"{100 * figures[1]:.1f} %",
        f"{100 * figures[2]:.1f} %",
        f"{1000 * median(seconds):.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--cranfield", type=Path)
    parser.add_argument("--squad", type=Path, nargs="*", default=[])
    parser.add_argument(
        "--every", type=int, default=3, help="of so many questions one is asked where the generator writes"
    )
    parser.add_argument("--write", type=Path, help="put the tables between their markers in this file")
    args = parser.parse_args()
    sets = ([cranfield(args.cranfield)] if args.cranfield else []) + [squad(path) for path in args.squad]
    text = ""
    with Client(args.target, api_key=args.key) as client:
        for known in sets:
            try:
                seconds = ingest(client, known)
                part = (
                    f"{known.name}: {len(known.documents)} documents, {len(known.questions)} questions; taken in within "
                    f"{seconds:.0f} s.\n\n| search | nDCG@10 | recall@4 | recall@10 | ms |\n| --- | --- | --- | --- | --- |\n"
                )
                for name, asked in ASKED.items():
                    part += f"| {' | '.join([name, *measured(client, known.questions, **asked)])} |\n"
                some = known.questions[:: args.every]
                for name, asked in WRITTEN.items():
                    row = [f"{name}, of {len(some)} questions", *measured(client, some, **asked)]
                    part += f"| {' | '.join(row)} |\n"
            finally:
                client.vector_search.DeleteCollection({"collection": COLLECTION})
            print(part, flush=True)
            text += f"{part}\n"
    if args.write:
        pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
        args.write.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{text}{END}", args.write.read_text("utf-8")))


if __name__ == "__main__":
    main()
