"""How fast documents are ingested: passages per second, and as a share of what the embedder does alone.

    python -m loadtest.ingest --target 127.0.0.1:8080 --key gm_... --cranfield cranfield.jsonl [--rounds 3]

In each round the documents are ingested into a new collection. Then the texts of their passages are embedded once more through the
same gateway, as Ingest embeds them (``bulk``, 128 in a call, two calls at a time), without storing anything. Prints each round and
the median of the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from genmesh import Client

from loadtest.retrieval import cranfield

COLLECTION = "loadtest-ingest"
TEXTS, CALLS = 128, 2


def ingested(client: Client, documents: list[dict[str, Any]]) -> tuple[int, float]:
    """Passages, and passages per second."""
    stream: Iterator[dict[str, Any]] = iter({"collection": COLLECTION, "document": one} for one in documents)
    begun, passages = time.monotonic(), 0
    for event in client.rag.Ingest(stream, timeout=3600):
        if event.HasField("failed"):
            raise SystemExit(f"{event.failed.document_id}: {event.failed.message}")
        passages += event.ingested.passage_count
    return passages, passages / (time.monotonic() - begun)


def texts_of(client: Client) -> list[str]:
    """What Ingest embeds of the collection's passages."""
    request: dict[str, Any] = {"collection": COLLECTION, "page_size": 1000}
    texts = list[str]()
    while True:
        page = client.vector_search.Get(request)
        texts += [f"{entity.context}\n{entity.text}" for entity in page.entities]
        if not page.next_page_token:
            return texts
        request["page_token"] = page.next_page_token


def embedded(client: Client, texts: list[str]) -> float:
    """Passages per second."""

    def embed(start: int) -> None:
        client.embedding.Embed({"inputs": texts[start : start + TEXTS], "bulk": True}, timeout=300)

    begun = time.monotonic()
    with ThreadPoolExecutor(CALLS) as pool:
        list(pool.map(embed, range(0, len(texts), TEXTS)))
    return len(texts) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--cranfield", type=Path, required=True, help="documents, as loadtest.retrieval reads them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="each document so many times, with ids of its own")
    args = parser.parse_args()
    known = cranfield(args.cranfield).documents
    documents = [{**one, "id": f"{one['id']}-{n}"} for n in range(args.times) for one in known]
    ratios = []
    with Client(args.target, api_key=args.key) as client:
        for _ in range(args.rounds):
            try:
                passages, rate = ingested(client, documents)
                alone = embedded(client, texts_of(client))
            finally:
                client.vector_search.DeleteCollection({"collection": COLLECTION})
            ratios.append(rate / alone)
            print(
                f"{len(documents)} documents, {passages} passages: {rate:.0f} passages/s; embedded alone {alone:.0f}; "
                f"ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"median ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
