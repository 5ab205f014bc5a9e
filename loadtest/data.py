"""The collections that searches and questions need: laid out before a run under names of its own, removed after it."""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Iterable, Iterator

from genmesh import Client
from genmesh.errors import GenmeshError

from loadtest import payloads

NEED_VECTORS, NEED_DOCUMENTS = {"search", "upsert"}, {"rag", "retrieve", "ingest"}


def names(run: str) -> tuple[str, str]:
    """The names of a run's collections: of vectors and of documents."""
    return f"load-{run}-vectors", f"load-{run}-documents"


@contextlib.contextmanager
def laid_out(client: Client, operations: Iterable[str]) -> Iterator[str]:
    """Lay out what the operations need; gives the run's name, and removes the data at the end."""
    run, needed = secrets.token_hex(4), set(operations)
    vectors, documents = names(run)
    try:
        if needed & NEED_VECTORS:
            _vectors(client, vectors)
        if needed & NEED_DOCUMENTS:
            _documents(client, documents)
        yield run
    finally:
        for name, need in ((vectors, NEED_VECTORS), (documents, NEED_DOCUMENTS)):
            if needed & need:
                with contextlib.suppress(GenmeshError):
                    client.vector_search.DeleteCollection({"collection": name}, timeout=30)


def _vectors(client: Client, name: str) -> None:
    draw = random.Random("vectors")
    collection = {"name": name, "dimension": payloads.DIMENSION}
    client.vector_search.CreateCollection({"collection": collection}, timeout=60)
    entities = [{"id": f"e{number}", "vector": payloads.vector(draw)} for number in range(payloads.ENTITIES)]
    client.vector_search.Upsert({"collection": name, "entities": entities}, timeout=60)


def _documents(client: Client, name: str) -> None:
    requests = [{"collection": name, "document": {"id": id_, "text": text}} for id_, text in payloads.documents()]
    for event in client.rag.Ingest(requests, timeout=120):
        if event.HasField("failed"):
            raise GenmeshError(f"document {event.failed.document_id} was not ingested: {event.failed.message}")
