"""How good grounded answers are: questions in SQuAD's format through a running cluster, with their paragraph and without it.

    python -m loadtest.grounded --target 127.0.0.1:8080 --key gm_... --squad xquad-en.json [--articles 5 7 15 18 22]
    python -m loadtest.grounded ... --squad xquad-en.json --follow-ups loadtest/follow_ups.jsonl

Every paragraph of the file becomes a document; the questions are those of ``--articles``, or of all. Each is asked twice. The
second time a filter leaves out its paragraph, but not the others of its article, so that nothing answers it. The figures are
those of ``genmesh eval``.

``follow_ups.jsonl`` has 40 questions that refer to earlier turns, written for this test about paragraphs of English XQuAD
(https://github.com/google-deepmind/xquad, CC BY-SA 4.0, as the file is) in articles that the generator was not trained on. They
are asked with the turns before them, without, and in a form that needs none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from genmesh import Client
from genmesh.evaluation import NAMES, Question, ask, figures, read, shown

from loadtest.squad import paragraphs

COLLECTION = "loadtest-grounded"


def questions(name: str, paragraph: dict[str, Any]) -> Iterator[Question]:
    """Each question of a paragraph, with the paragraph and without it."""
    for one in paragraph["qas"]:
        gold = [answer["text"] for answer in one["answers"]]
        yield Question(one["question"], {name: 1.0}, gold)
        yield Question(one["question"], {}, gold, f'paragraph != "{name}"')


def follow_ups(text: str) -> dict[str, list[Question]]:
    """Lines as ``genmesh eval`` reads them, each with ``standalone``, too."""
    lines = [json.loads(line) for line in text.splitlines()]
    alone = [line.pop("standalone") for line in lines]
    asked = read("\n".join(map(json.dumps, lines)))
    without = [replace(one, history=[]) for one in asked]
    return {
        "with earlier turns": asked,
        "without": without,
        "standalone": [replace(one, question=question) for one, question in zip(without, alone, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--articles", type=int, nargs="*", help="numbers of articles, from 0")
    parser.add_argument("--follow-ups", type=Path, help="questions with earlier turns, asked instead")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print each reply")
    args = parser.parse_args()
    documents, asked = [], list[Question]()
    sets = follow_ups(args.follow_ups.read_text("utf-8")) if args.follow_ups else {"": asked}
    for number, name, paragraph in paragraphs(args.squad):
        documents.append({"id": name, "text": paragraph["context"], "metadata": {"paragraph": name}})
        if args.articles is None or number in args.articles:
            asked += questions(name, paragraph)
    with Client(args.target, api_key=args.key) as client:
        list(client.rag.Ingest(iter({"collection": COLLECTION, "document": one} for one in documents), timeout=1800))
        try:
            with ThreadPoolExecutor(args.clients) as pool:
                one = partial(ask, client, wanted={"collection": COLLECTION}, answers=True, timeout=300)
                given = {name: list(pool.map(one, asked)) for name, asked in sets.items()}
        finally:
            client.vector_search.DeleteCollection({"collection": COLLECTION})
    if args.show:
        for result in chain(*given.values()):
            print(json.dumps(result.details(), ensure_ascii=False))
    for name, results in given.items():
        print(name)
        for figure, value in figures(results, answers=True).items():
            print(f"{shown(figure, value):>8}  {NAMES[figure]}")


if __name__ == "__main__":
    main()
