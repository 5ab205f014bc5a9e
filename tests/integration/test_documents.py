"""Documents that several write at once, and writers and stores that die meanwhile: a reader sees one version, whole."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from genmesh import Client
from genmesh.errors import AlreadyExists, GenmeshError, Unavailable
from genmesh.v1 import rag_pb2 as pb

from tests.integration.test_faults import stopped
from tests.waiting import until

FACTS = 600  # two hundred passages


def text(word: str, facts: int = FACTS) -> str:
    return " ".join(f"{word} fact {i} of the river is {i * 7}." for i in range(facts))


def events(client: Client, collection: str, *documents: dict) -> Iterator[pb.IngestResponse]:
    yield from client.rag.Ingest({"collection": collection, "document": document} for document in documents)


def ingest(client: Client, collection: str, document: str, content: str) -> pb.IngestResponse:
    *_, last = events(client, collection, {"id": document, "text": content})
    return last


def stored(client: Client, collection: str) -> dict[str, dict[float, set[str]]]:
    """By document and revision the first words of its passages; entities that are no passages are under ""."""
    found: dict[str, dict[float, set[str]]] = {}
    request: dict = {"collection": collection, "page_size": 1000}
    while True:
        page = client.vector_search.Get(request)
        for entity in page.entities:
            fields = entity.metadata.fields
            document = fields["_document"].string_value if "_position" in fields else ""
            words = found.setdefault(document, {}).setdefault(fields["_revision"].number_value, set())
            words.add(entity.text.removeprefix("… ").split(" ")[0])
        if not page.next_page_token:
            return found
        request["page_token"] = page.next_page_token


def read(client: Client, collection: str, document: str) -> list[pb.Passage]:
    request = {"collection": collection, "question": "river fact", "top_k": 100, "skip_rerank": True}
    return [p for p in client.rag.Retrieve(request).passages if p.document_id == document]


def words_of(passages: list[pb.Passage]) -> set[str]:
    return {word for p in passages for word in p.text.split() if word in ("Alpha", "Beta", "Gamma")}


def test_of_two_writers_the_one_that_began_last_wins(client: Client, collection: str) -> None:
    first = events(
        client, collection, {"id": "doc.txt", "text": text("Alpha")}, {"id": "next.txt", "text": "It goes on."}
    )
    assert next(first).progress.passages_done
    assert ingest(client, collection, "doc.txt", "Beta is the only fact.").ingested.passage_count == 1
    assert words_of(read(client, collection, "doc.txt")) == {"Beta"}
    replaced, following = (event for event in first if event.WhichOneof("event") != "progress")
    assert replaced.failed.reason == "DOCUMENT_REPLACED" or replaced.ingested.passage_count > 1  # it was done already
    assert following.ingested.document_id == "next.txt"
    found = stored(client, collection)
    assert set(found) == {"doc.txt", "next.txt"}
    assert list(found["doc.txt"].values()) == [{"Beta"}]


def test_a_reader_sees_the_old_version_until_the_new_one_is_whole(client: Client, collection: str) -> None:
    ingest(client, collection, "doc.txt", text("Alpha", 30))
    old = len(read(client, collection, "doc.txt"))
    seen = []
    for event in events(client, collection, {"id": "doc.txt", "text": text("Beta")}):
        passages = read(client, collection, "doc.txt")
        seen.append((words_of(passages), len(passages)))
        last = event
    new = ({"Beta"}, min(100, last.ingested.passage_count))
    assert seen[-1] == new
    assert all(one in (({"Alpha"}, old), new) for one in seen)


def test_a_caller_that_leaves_takes_nothing_with_it(client: Client, collection: str) -> None:
    ingest(client, collection, "doc.txt", text("Alpha", 30))
    whole = stored(client, collection)
    document = {"id": "doc.txt", "text": text("Beta", 3000)}
    stream = client.rag.Ingest(iter([{"collection": collection, "document": document}]))
    next(iter(stream))
    stream.cancel()
    until(lambda: stored(client, collection) == whole)


@pytest.mark.parametrize("attempt", range(3))
def test_eight_ingestions_into_a_collection_that_is_not_there(client: Client, collection: str, attempt: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: ingest(client, collection, f"d{i}.txt", f"Number {i} is here."), range(8)))
    assert {event.WhichOneof("event") for event in done} == {"ingested"}
    passages = client.rag.Retrieve({"collection": collection, "question": "Number 3", "top_k": 20}).passages
    assert sorted(p.document_id for p in passages) == [f"d{i}.txt" for i in range(8)]


def test_of_eight_that_create_a_collection_one_has_made_it(client: Client, collection: str) -> None:
    def create(_: int) -> str:
        try:
            client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
        except AlreadyExists as failure:
            return failure.reason
        return "made"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == ["COLLECTION_EXISTS"] * 7 + ["made"]
    client.vector_search.Upsert({"collection": collection, "entities": [{"id": "a", "vector": [1, 0]}]})
    assert client.vector_search.Search({"collection": collection, "vectors": [{"values": [1, 0]}]}).results[0].hits


def test_a_store_that_goes_away_meanwhile(running, client: Client, collection: str) -> None:
    """Whether the ingestion waits for it or fails: there is one version, and what it left is gone with the next one."""
    ingest(client, collection, "doc.txt", text("Alpha", 30))
    stream = events(client, collection, {"id": "doc.txt", "text": text("Beta", 3000)})
    next(stream)
    outcome = ""
    running.cluster.manager.signalProcess("milvus", "KILL")
    with stopped(running, "milvus"):
        try:
            for event in stream:
                outcome = event.WhichOneof("event")
        except Unavailable as failure:
            outcome = failure.reason
    assert outcome == "VECTOR_STORE_UNAVAILABLE"
    (word,) = words_of(read(client, collection, "doc.txt"))

    def one_version() -> bool:
        ingest(client, collection, "other.txt", "Something else.")
        found = stored(client, collection)
        return {name: list(revisions.values()) for name, revisions in found.items()} == {
            "doc.txt": [{word}], "other.txt": [{"Something"}],
        }  # fmt: skip

    until(one_version, 300)  # at once, but where the store went away just as the version was committed
    assert words_of(read(client, collection, "doc.txt")) == {word}


def killed(running, client: Client, collection: str, moments: list[float]) -> None:
    """Ingestions whose process is killed at these shares of the time that one takes."""
    begun = time.monotonic()
    ingest(client, collection, "doc.txt", text("Alpha"))
    takes, versions = time.monotonic() - begun, {"Alpha"}
    sizes = {"Alpha": len(read(client, collection, "doc.txt"))}
    for number, share in enumerate(moments):
        word = ("Beta", "Gamma")[number % 2]
        versions.add(word)
        with ThreadPoolExecutor(1) as pool:
            ingestion = pool.submit(ingest, client, collection, "doc.txt", text(word))
            time.sleep(share * takes)
            running.cluster.manager.signalProcess("rag", "KILL")
            outcome = ingestion.exception()
        assert outcome is None or isinstance(outcome, GenmeshError)
        until(lambda: answers(client, collection), 300)
        passages = read(client, collection, "doc.txt")
        (now,) = words_of(passages)
        assert len(passages) == sizes.setdefault(now, len(passages))
        assert now in versions if outcome else now == word
        ingest(client, collection, "other.txt", f"Something else, {number}.")
        found = stored(client, collection)
        assert {document: len(revisions) for document, revisions in found.items()} == {"doc.txt": 1, "other.txt": 1}
        assert words_of(read(client, collection, "doc.txt")) == {now}


def answers(client: Client, collection: str) -> bool:
    try:
        return bool(read(client, collection, "doc.txt"))
    except Unavailable:
        return False


def test_a_process_that_is_killed_leaves_one_version(running, client: Client, collection: str) -> None:
    killed(running, client, collection, [0.5, 0.95])


@pytest.mark.nightly
def test_a_process_that_is_killed_at_any_moment(running, client: Client, collection: str) -> None:
    chance = random.Random(20)
    killed(running, client, collection, [chance.uniform(0, 1.1) for _ in range(10)])


def test_documents_of_one_stream_are_stored_at_the_same_time(client: Client, collection: str) -> None:
    """As one after the other would be: in their order, the last of an id holds, and a faulty one does not stop the others."""
    documents = [{"id": f"d{n}", "text": f"Alpha {n} lies on the river."} for n in range(150)]
    documents[40] = {"id": "d0", "text": text("Beta", 40)}
    documents[41] = {"id": "d0", "text": "Gamma lies on the river."}
    documents[70] = {"id": "d70", "text": " "}
    documents[71] = {"id": "d71", "text": text("Alpha", 3 * FACTS)}
    ended = [event for event in events(client, collection, *documents) if event.WhichOneof("event") != "progress"]
    assert [event.ingested.document_id or event.failed.document_id for event in ended] == [
        one["id"] for one in documents
    ]
    assert [n for n, event in enumerate(ended) if event.HasField("failed")] == [70]
    found = stored(client, collection)
    assert set(found) == {one["id"] for one in documents} - {"d70"}
    assert all(len(versions) == 1 for versions in found.values())
    assert list(found["d0"].values()) == [{"Gamma"}]
    *_, last = events(client, collection, *({"id": f"d{n}", "text": "Beta."} for n in range(150)))
    assert last.ingested.document_id == "d149"
    found = stored(client, collection)
    assert [list(versions.values()) for versions in found.values()] == [[{"Beta."}]] * 150


def test_who_leaves_a_stream_leaves_whole_documents(client: Client, collection: str) -> None:
    ingest(client, collection, "first", "Alpha.")
    with client.rag.Ingest(
        {"collection": collection, "document": {"id": f"d{n}", "text": text("Beta", 30)}} for n in range(150)
    ) as stream:
        assert next(iter(stream)).progress.document_id == "d0"

    def settled() -> bool:
        found = stored(client, collection)
        before = set(found)
        time.sleep(1)
        return "" not in found and set(stored(client, collection)) == before

    until(settled, 60)
    found = stored(client, collection)
    ids = {name for name in found if name != "first"}
    assert len(ids) < 150
    counts = [
        len(client.vector_search.Get({"collection": collection, "id_prefix": f"{name}#"}).entities) for name in ids
    ]
    assert len(set(counts)) <= 1, counts
