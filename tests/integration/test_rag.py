"""RagService through all the others: ingestion, retrieval, answers whose citations hold."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import pytest
from genmesh import Client
from genmesh.errors import FailedPrecondition, InvalidArgument, NotFound
from genmesh.v1 import rag_pb2 as pb
from genmesh.v1 import vector_search_pb2 as vectors_pb
from genmesh_models.sources import recipe

from services.rag import prompt
from tests.figures import Figure

HANDBOOK = """# Marlow Observatory

The observatory stands on Quill Hill and was built by Ines Farrow in 1911.

## Telescopes

The main telescope has a mirror of 240 centimetres. It was ground in Tressel. The small telescope is
open to visitors on Friday evenings.

| instrument | keeper |
| --- | --- |
| spectrograph | Odo Lant |

## Shop

The shop sells star maps for 7 euros. It closes at 17:30.
"""
NOTES = (
    "The garden path is lit by forty lamps.\n\nDogs must stay outside the gate. Bicycles are parked behind the kitchen."
)


def ingest(client: Client, collection: str, *documents: dict) -> list[pb.IngestResponse]:
    requests = ({"collection": collection, "document": d} for d in documents)
    return [e for e in client.rag.Ingest(requests) if not e.HasField("progress")]


@pytest.fixture(scope="module")
def library(client: Client) -> Iterator[str]:
    name = "library-" + secrets.token_hex(4)
    results = ingest(
        client, name,
        {"id": "observatory.md", "text": HANDBOOK, "metadata": {"source": "handbook", "year": 2020}},
        {"id": "notes.txt", "text": NOTES, "metadata": {"source": "notes", "year": 2023}},
    )  # fmt: skip
    assert [r.ingested.document_id for r in results] == ["observatory.md", "notes.txt"]
    assert all(r.ingested.passage_count > 0 and r.ingested.token_count > 0 for r in results)
    yield name
    client.vector_search.DeleteCollection({"collection": name})


QUESTIONS = [
    ("Who built the observatory?", "Ines Farrow", "observatory.md"),
    ("How large is the mirror of the main telescope?", "240 centimetres", "observatory.md"),
    ("When is the small telescope open to visitors?", "Friday evenings", "observatory.md"),
    ("What do star maps cost in the shop?", "7 euros", "observatory.md"),
    ("Where are bicycles parked?", "behind the kitchen", "notes.txt"),
    ("How many lamps light the garden path?", "forty lamps", "notes.txt"),
]


@pytest.mark.parametrize(("question", "words", "document"), QUESTIONS)
def test_an_answer_has_the_passages_words_and_cites_it(
    client: Client, library: str, question: str, words: str, document: str
) -> None:
    answer = client.rag.Answer({"collection": library, "question": question})
    assert answer.answered
    assert words in answer.text
    assert f"[{answer.citations[0].number}]" in answer.text
    cited = answer.citations[0]
    assert cited.document_id == document
    passage = next(p for p in answer.passages if p.number == cited.number)
    assert cited.quote in passage.text
    assert cited.passage_id == passage.id


@pytest.mark.parametrize(
    "question", ["What is the boiling point of lead?", "Who won the chess championship?", "asdf qwer zxcv?"]
)
def test_where_no_passage_answers_the_reply_says_so(client: Client, library: str, question: str) -> None:
    answer = client.rag.Answer({"collection": library, "question": question})
    assert not answer.answered
    assert answer.grounding == pb.GROUNDING_NO_ANSWER
    assert answer.text == "The passages do not answer the question."
    assert not answer.citations


def test_a_stream_has_its_events_in_order(client: Client, library: str) -> None:
    events = list(client.rag.StreamAnswer({"collection": library, "question": "Who built the observatory?"}))
    kinds = [e.WhichOneof("event") for e in events]
    assert [e.stage.stage for e in events if e.HasField("stage")] == ["embed", "search", "rerank", "fit", "generate"]
    assert kinds.index("passages") < kinds.index("text") < kinds.index("citation") < kinds.index("summary")
    assert kinds[-1] == "summary"
    summary = events[-1].summary
    assert [t.stage for t in summary.timings.stages] == ["embed", "search", "rerank", "fit", "check", "generate"]
    assert summary.usage.input_tokens > 0
    assert 0 < summary.timings.time_to_first_token_seconds <= summary.timings.total_seconds


def test_retrieve_honours_filters_and_top_k(client: Client, library: str) -> None:
    request = {"collection": library, "question": "Where do dogs stay?", "top_k": 2}
    assert client.rag.Retrieve(request).passages[0].document_id == "notes.txt"
    filtered = client.rag.Retrieve(request | {"filter": 'source = "handbook" AND year < 2022'})
    assert {p.document_id for p in filtered.passages} == {"observatory.md"}
    assert len(filtered.passages) <= 2
    assert filtered.passages[0].metadata["source"] == "handbook"
    assert not client.rag.Retrieve(request | {"filter": "year > 3000"}).passages


def test_passages_are_searched_by_vectors_and_words(client: Client, library: str) -> None:
    def places(question: str, **more: object) -> list[str]:
        found = client.rag.Retrieve({"collection": library, "question": question, "skip_rerank": True, **more})
        return [" > ".join(p.headings) or p.document_id for p in found.passages]

    assert "Marlow Observatory > Shop" in places("shops", search_mode="SEARCH_MODE_BM25")  # of the heading
    assert places("zebra", search_mode="SEARCH_MODE_BM25") == []
    assert len(places("zebra", top_k=3)) == len(places("zebra", top_k=3, search_mode="SEARCH_MODE_DENSE")) == 3
    assert places("shops") == places("shops", search_mode="SEARCH_MODE_HYBRID")
    answer = client.rag.Answer(
        {"collection": library, "question": "When does the shop close?", "search_mode": "SEARCH_MODE_BM25"}
    )
    assert "17:30" in answer.text
    with pytest.raises(InvalidArgument) as failure:
        client.rag.Retrieve({"collection": library, "question": "x", "search_mode": 9})
    assert failure.value.field_violations[0].field == "search_mode"


def test_parents_are_read_as_they_stand_in_the_document(client: Client, collection: str) -> None:
    section = " ".join(f"Sluice number {i} of the Hollin canal is kept by warden {i * 7}." for i in range(1, 40))
    text = f"# Canal\n\n{section}\n\n## Boats\n\nBoats pass at noon.\n"
    (result,) = ingest(client, collection, {"id": "canal.md", "text": text})
    count = client.vector_search.GetCollection({"collection": collection}).collection.entity_count
    assert count == result.ingested.passage_count  # a parent is no entity of its own
    question = {"collection": collection, "question": "Who keeps sluice number 23 of the canal?", "top_k": 3}
    alone = client.rag.Retrieve(question)
    parents = client.rag.Retrieve({**question, "parents": True})
    assert "parents" not in [one.stage for one in alone.timings.stages]
    assert [one.stage for one in parents.timings.stages] == ["embed", "search", "rerank", "parents"]
    best = parents.passages[0]
    assert best.id == alone.passages[0].id == best.found_ids[0]
    assert best.parent_id == alone.passages[0].parent_id
    assert alone.passages[0].text in best.text
    assert best.text in section
    assert len(best.text) > 2 * len(alone.passages[0].text)
    ids = [name for one in parents.passages for name in one.found_ids]
    assert len(ids) == len(set(ids)) > len({one.parent_id for one in parents.passages if one.parent_id}) > 1
    (boats,) = [
        one
        for one in client.rag.Retrieve({**question, "parents": True, "top_k": 9}).passages
        if one.headings[-1] == "Boats"
    ]
    assert (boats.text, boats.parent_id) == ("Boats pass at noon.", "")
    answer = client.rag.Answer({**question, "parents": True})
    assert "161" in answer.text
    assert answer.citations[0].quote in next(p.text for p in answer.passages if p.number == answer.citations[0].number)
    assert answer.citations[0].quote in text


def test_the_generator_may_write_what_is_searched_for(client: Client, library: str) -> None:
    question = {"collection": library, "question": "Who built the observatory?", "expansions": 2, "hyde": True}
    events = list(client.rag.StreamAnswer(question))
    stages = ["expand", "hyde", "embed", "search", "rerank", "fit", "generate"]
    assert [e.stage.stage for e in events if e.HasField("stage")] == stages
    queries = [e.query for e in events if e.HasField("query")]
    assert [query.stage for query in queries] == ["expand", "hyde"]
    assert all(bool(query.texts) != bool(query.skipped_reason) for query in queries)
    assert all(query.usage.input_tokens > 0 for query in queries)
    summary = events[-1].summary
    assert [t.stage for t in summary.timings.stages] == [*stages[:-1], "check", "generate"]
    assert summary.usage.input_tokens > sum(query.usage.input_tokens for query in queries)
    answer = client.rag.Answer(question)
    assert "Ines Farrow" in answer.text
    assert [query.stage for query in answer.queries] == ["expand", "hyde"]
    found = client.rag.Retrieve({**question, "hyde": False})
    assert [query.stage for query in found.queries] == ["expand"]
    assert found.passages[0].document_id == "observatory.md"


FOLLOW_UPS = [
    ("Who built the observatory?", "Ines Farrow", "When did she build it?", "1911"),
    ("What do star maps cost in the shop?", "7 euros", "And when does it close?", "17:30"),
    (
        "When is the small telescope open to visitors?",
        "Friday evenings",
        "How large is the mirror of the main one?",
        "240",
    ),
]


@pytest.mark.parametrize(("question", "answer", "follow_up", "words"), FOLLOW_UPS)
def test_a_question_that_leans_on_the_one_before_is_rewritten(
    client: Client, library: str, question: str, answer: str, follow_up: str, words: str
) -> None:
    history = [{"role": "user", "content": question}, {"role": "assistant", "content": f"{answer} [1]"}]
    request = {"collection": library, "question": follow_up, "history": history}
    events = list(client.rag.StreamAnswer(request))
    assert [e.stage.stage for e in events if e.HasField("stage")][:2] == ["rewrite", "embed"]
    (query,) = [e.query for e in events if e.HasField("query")]
    assert (query.stage, len(query.texts)) == ("rewrite", 1), query
    assert words in "".join(e.text.text for e in events if e.HasField("text")), query.texts
    assert events[-1].summary.timings.stages[0].stage == "rewrite"
    assert client.rag.Retrieve(request).queries[0].texts == query.texts


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"expansions": 6}, "expansions"), ({"expansions": -1}, "expansions"),
     ({"history": [{"role": "system", "content": "x"}]}, "history[0].role"),
     ({"history": [{"role": "user", "content": " "}]}, "history[0].content"),
     ({"history": [{"role": "user", "content": "x"}] * 101}, "history"),
     ({"hyde": True, "search_mode": "SEARCH_MODE_BM25"}, "hyde")],
)  # fmt: skip
def test_what_a_search_cannot_do_is_refused(client: Client, library: str, fields: dict, field: str) -> None:
    for call in (client.rag.Retrieve, client.rag.Answer):
        with pytest.raises(InvalidArgument) as failure:
            call({"collection": library, "question": "x", **fields})
        assert failure.value.field_violations[0].field == field
    with pytest.raises(NotFound) as missing:
        client.rag.Retrieve({"collection": library, "question": "x", "expansions": 1, "model": "nobody"})
    assert missing.value.reason == "MODEL_NOT_FOUND"


def test_a_collection_parts_words_as_it_was_made(client: Client, collection: str) -> None:
    message = {"collection": collection, "analyzer": "german", "document": {"id": "a", "text": "Die Häuser am Fluss."}}
    assert [e.WhichOneof("event") for e in client.rag.Ingest(iter([message]))][-1] == "ingested"
    assert client.vector_search.GetCollection({"collection": collection}).collection.analyzer == "german"
    question = {"collection": collection, "question": "Haus", "search_mode": "SEARCH_MODE_BM25"}
    assert len(client.rag.Retrieve(question).passages) == 1
    for call in (
        lambda: client.rag.Ingest(iter([{**message, "collection": f"{collection}-2", "analyzer": "klingon"}])),
        lambda: client.rag.Reindex({"collection": collection, "analyzer": "klingon"}),
    ):
        with pytest.raises(InvalidArgument) as failure:
            list(call())
        assert failure.value.field_violations[0].field == "analyzer"


def test_headings_travel_with_passages(client: Client, library: str) -> None:
    found = client.rag.Retrieve({"collection": library, "question": "When does the shop close?"}).passages[0]
    assert found.title == "Marlow Observatory"
    assert list(found.headings) == ["Marlow Observatory", "Shop"]
    assert "closes at 17:30" in found.text


def test_a_document_is_replaced_and_deleted(client: Client, collection: str) -> None:
    ingest(client, collection, {"id": "a.txt", "text": "The gate code is 1111."})
    ingest(client, collection, {"id": "a.txt", "text": "The gate code is 2222."})
    answer = client.rag.Answer({"collection": collection, "question": "What is the gate code?"})
    assert "2222" in answer.text
    assert client.vector_search.GetCollection({"collection": collection}).collection.entity_count == 1
    assert client.rag.DeleteDocument({"collection": collection, "document_id": "a.txt"}).deleted_passages == 1
    with pytest.raises(NotFound) as failure:
        client.rag.DeleteDocument({"collection": collection, "document_id": "a.txt"})
    assert failure.value.reason == "DOCUMENT_NOT_FOUND"


def test_documents_whose_ids_are_no_plain_words_are_kept_apart(client: Client, collection: str) -> None:
    ids = [
        "What's new.md",
        "Whats new.md",
        'a "b" c.md',
        "a\\b.md",
        "a\\\\b.md",
        "x'] or id not in ['",
        '" OR n > 0',
        "日本 é.md",
    ]
    for version in (5, 7):
        ingest(client, collection, *({"id": i, "text": f"The rate is {version} percent."} for i in ids))
    passages = client.rag.Retrieve({"collection": collection, "question": "What is the rate?", "top_k": 20}).passages
    assert sorted(p.document_id for p in passages) == sorted(ids)
    assert all("7 percent" in p.text for p in passages)
    for number, document in enumerate(ids, 1):
        gone = client.rag.DeleteDocument({"collection": collection, "document_id": document})
        assert gone.deleted_passages == 1
        left = client.vector_search.GetCollection({"collection": collection}).collection.entity_count
        assert left == len(ids) - number


def test_documents_as_people_write_them(client: Client, collection: str) -> None:
    long = (
        "It is not the case that "
        + ", ".join(f"the unit number {i} in hall {i}" for i in range(1, 40))
        + " may be off."
    )
    limits = "---\nsource: handbook\n---\n# Limits\n\n| plan | size |\n|---|---|\n| free | 10 MB<br>20 MB |\n"
    results = ingest(
        client, collection,
        {"id": "limits.md", "text": limits},
        {"id": "restore.md", "text": "\ufeff# Restore\n\n1. Stop the writer.\n2. Copy the archive.\n3. Start the reader <NAME>."},
        {"id": "key.txt", "text": "The key is 42. " + "A" * 70_000 + " The end is near."},
        {"id": "battery.txt", "text": "保修期为两年。电池容量是5000毫安。重量为180克。"},
        {"id": "units.txt", "text": long},
    )  # fmt: skip
    assert [r.WhichOneof("event") for r in results] == ["ingested"] * 5

    def found(question: str, where: str = "") -> list[pb.Passage]:
        asked = {"collection": collection, "question": question, "top_k": 20, "filter": where}
        return list(client.rag.Retrieve(asked).passages)

    (limits_passage,) = found("How large is the free plan?", 'source = "handbook"')
    assert limits_passage.text == "plan | size\nfree | 10 MB 20 MB"
    passages = {p.document_id: p.text for p in found("Start the reader")}
    assert passages["restore.md"].endswith("3. Start the reader <NAME>.")
    assert passages["key.txt"].endswith("A… The end is near.")
    answer = client.rag.Answer({"collection": collection, "question": "电池容量是多少？", "top_k": 1})
    assert all(citation.quote in passages["battery.txt"] for citation in answer.citations)
    cut = [p.text for p in found("May unit number 19 be off?") if p.document_id == "units.txt"]
    assert len(cut) > 1
    assert sum(text.endswith(" …") for text in cut) == sum(text.startswith("… ") for text in cut) == len(cut) - 1


def test_a_bad_document_fails_alone(client: Client, collection: str) -> None:
    nested: object = "x"
    for _ in range(20):
        nested = {"a": nested}
    results = ingest(
        client, collection,
        {"id": "good.txt", "text": "Kites fly over the dunes."},
        {"id": "empty.txt", "text": " \n "},
        {"id": "", "text": "no id"},
        {"id": "reserved.txt", "text": "x", "metadata": {"_document": "good.txt"}},
        {"id": "markup.md", "text": "---\n\n![](x.png)\n"},
        {"id": "nan.txt", "text": "x", "metadata": {"a": [float("nan")]}},
        {"id": "deep.txt", "text": "x", "metadata": {"a": nested}},
        {"id": "large.txt", "text": "x", "metadata": {"a": "x" * 60_000}},
        {"id": "long.txt", "text": "字" * 5_100_000},
        {"id": "format.txt", "text": "x", "format": 99},
        {"id": "deep.md", "text": "---\na: " + "{a: " * 40 + "1" + "}" * 40 + "\n---\nB\n"},
        {"id": "head.md", "text": '---\nb: !!bool "abc"\nn: ' + "9" * 400 + "\n---\nBees hum in the lime tree.\n"},
        {"id": "also-good.txt", "text": "Boats rest in the harbour."},
    )  # fmt: skip
    kinds = [r.WhichOneof("event") for r in results]
    assert kinds == ["ingested", *["failed"] * 10, "ingested", "ingested"]
    assert [r.failed.reason for r in results[1:11]] == [
        "DOCUMENT_EMPTY", "DOCUMENT_ID_INVALID", "METADATA_RESERVED", "DOCUMENT_EMPTY", "METADATA_INVALID", "METADATA_INVALID",
        "METADATA_INVALID", "DOCUMENT_TOO_LONG", "FORMAT_UNKNOWN", "METADATA_INVALID",
    ]  # fmt: skip
    assert client.vector_search.GetCollection({"collection": collection}).collection.entity_count == 3


def test_a_collection_that_cannot_be_ends_the_stream(client: Client) -> None:
    with pytest.raises(InvalidArgument) as failure:
        ingest(client, "no such/name", {"id": "a", "text": "x"}, {"id": "b", "text": "y"})
    assert [v.field for v in failure.value.field_violations] == ["collection"]


def test_texts_of_control_tokens_leave_room_for_the_question(client: Client, collection: str) -> None:
    texts = [f"The code of vault {i} is {1000 + i}. " + "<|im_end|>" * 28 for i in range(30)]
    ingest(client, collection, *({"id": f"vault {i}", "text": text, "format": 1} for i, text in enumerate(texts)))
    answer = client.rag.Answer({"collection": collection, "question": "What is the code of vault 7?", "top_k": 20})
    assert answer.passages
    counted = client.tokenization.Count({"texts": ["<|im_end|>"]}).counts[0]
    assert counted > 1 == client.tokenization.Count({"texts": ["<|im_end|>"], "read_control_tokens": True}).counts[0]


def test_accents_at_the_end_of_a_passage_are_kept(client: Client, collection: str) -> None:
    ingest(client, collection, {"id": "n", "text": "We met at the Cafe\u0301"}, {"id": "t", "text": "วันที่"})
    page = client.vector_search.Get({"collection": collection, "page_size": 10})
    assert sorted(entity.text for entity in page.entities) == ["We met at the Cafe\u0301", "วันที่"]


def test_tenants_answer_from_their_own_documents(running, client: Client, library: str) -> None:
    with running.client(running.beta) as other, pytest.raises(NotFound) as failure:
        other.rag.Answer({"collection": library, "question": "Who built the observatory?"})
    assert failure.value.reason == "COLLECTION_NOT_FOUND"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"question": ""}, "question"),
        ({"question": " \n"}, "question"),
        ({"question": "x" * 4001}, "question"),
        ({"question": "x", "top_k": -1}, "top_k"),
        ({"question": "x", "top_k": 21}, "top_k"),
        ({"question": "x", "max_tokens": -1}, "max_tokens"),
        ({"question": "x", "filter": "year >"}, "filter"),
        ({"question": "x", "collection": "no such/name"}, "collection"),
        ({"question": "x", "max_tokens": 100_000}, "max_tokens"),
        ({"question": "\U0001f600" * 4000}, "question"),
    ],
)
def test_bad_questions_name_their_field(client: Client, library: str, request_: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.rag.Answer({"collection": library} | request_)
    assert field in [v.field for v in failure.value.field_violations]


def test_a_collection_of_other_vectors_is_named(client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    client.vector_search.Upsert({"collection": collection, "entities": [{"id": "a", "vector": [1, 0]}]})
    for method in (client.rag.Retrieve, client.rag.Answer):
        with pytest.raises(InvalidArgument) as failure:
            method({"collection": collection, "question": "What is it?"})
        assert [v.field for v in failure.value.field_violations] == ["collection"]
        assert failure.value.reason == "VECTOR_LENGTH_MISMATCH"
    with pytest.raises(InvalidArgument) as failure:
        ingest(client, collection, {"id": "a", "text": "x"})
    assert failure.value.reason == "VECTOR_LENGTH_MISMATCH"


def test_entities_that_users_stored_are_passages_whatever_they_hold(client: Client, library: str) -> None:
    vector = list(client.embedding.Embed({"inputs": ["Zebras sleep in the blue barn."]}).results[0].embedding.values)
    odd = {"_headings": 5, "_title": ["x"], "_document": {"a": 1}, "_revision": "x", "_position": None, "kind": "own"}
    own = {"id": "own#1#0", "vector": vector, "text": "Zebras sleep in the blue barn.", "metadata": odd}
    silent = {"id": "image", "vector": vector}
    client.vector_search.Upsert({"collection": library, "entities": [own, silent]})
    try:
        answer = client.rag.Answer({"collection": library, "question": "Where do zebras sleep?"})
        assert "blue barn" in answer.text.lower()
        assert answer.passages[0].metadata["kind"] == "own"
    finally:
        client.vector_search.Delete({"collection": library, "ids": ["own#1#0", "image"]})


def test_errors_name_what_is_missing(client: Client, library: str) -> None:
    with pytest.raises(NotFound) as collection:
        client.rag.Retrieve({"collection": "not-there", "question": "x"})
    assert collection.value.reason == "COLLECTION_NOT_FOUND"
    with pytest.raises(NotFound) as model:
        client.rag.Answer({"collection": library, "question": "Who built the observatory?", "model": "nobody"})
    assert model.value.reason == "MODEL_NOT_FOUND"


QUESTION = "Who built the observatory?"


def of_another_model(client: Client, source: str, target: str, revision: str) -> None:
    """Copy a collection into one whose vectors are said to be another model's."""
    made = client.vector_search.GetCollection({"collection": source}).collection
    client.vector_search.CreateCollection(
        {"collection": {"name": target, "dimension": made.dimension, "model_revision": revision}}
    )
    page = client.vector_search.Get({"collection": source, "page_size": 1000, "include_vectors": True})
    client.vector_search.Upsert(
        vectors_pb.UpsertRequest(collection=target, entities=page.entities, model_revision=revision)
    )


def retrieve(client: Client, collection: str) -> list[tuple[str, str, float]]:
    found = client.rag.Retrieve({"collection": collection, "question": QUESTION, "skip_rerank": True, "top_k": 20})
    return [(p.id, p.text, round(p.score, 4)) for p in found.passages]


@pytest.mark.parametrize("revision", ["embedder@before", "elder@1"])
def test_a_collection_of_another_model_is_refused_until_it_is_reindexed(
    client: Client, collection: str, revision: str
) -> None:
    documents = [
        {"id": "observatory.md", "text": HANDBOOK},
        {"id": "long.md", "text": "\n\n".join(f"The bell of {n} rings. " * 20 for n in range(99))},
    ]
    ingest(client, f"{collection}-before", *documents)
    before = retrieve(client, f"{collection}-before")
    of_another_model(client, f"{collection}-before", collection, revision)
    client.vector_search.DeleteCollection({"collection": f"{collection}-before"})
    ours = client.embedding.Embed({"inputs": ["x"]}).model_revision
    assert len(before) > 10

    question = {"collection": collection, "question": QUESTION}
    calls = [client.rag.Retrieve, client.rag.Answer, lambda q: list(client.rag.StreamAnswer(q))]
    for call in calls * 2:  # also once the collection's model is known
        with pytest.raises(FailedPrecondition) as failure:
            call(question)
        assert failure.value.reason == "MODEL_REVISION_MISMATCH"
        said = {
            "field": "collection",
            "collection": collection,
            "collection_revision": revision,
            "request_revision": ours,
        }
        assert failure.value.metadata.items() >= said.items()
        assert revision in failure.value.message
        assert ours in failure.value.message
    (result,) = ingest(client, collection, {"id": "notes.txt", "text": NOTES})
    assert (result.failed.document_id, result.failed.reason) == ("notes.txt", "MODEL_REVISION_MISMATCH")
    (result,) = ingest(client, collection, {"id": "observatory.md", "text": HANDBOOK + NOTES})
    assert result.failed.reason == "MODEL_REVISION_MISMATCH"

    if revision == "embedder@before":  # what follows is the same
        return
    with pytest.raises(NotFound) as gone:  # of itself it would ask for that model
        list(client.rag.Reindex({"collection": collection}))
    assert (gone.value.reason, gone.value.metadata["field"]) == ("MODEL_NOT_FOUND", "model")
    *progress, last = client.rag.Reindex({"collection": collection, "model": "embedder"})
    assert [e.progress.entities_done for e in progress][-1] == progress[-1].progress.entities_total
    count = last.result.entity_count
    assert last.result == pb.ReindexResult(
        recomputed_count=count, entity_count=count, previous_model_revision=revision, model_revision=ours
    )
    assert retrieve(client, collection) == before
    (result,) = ingest(client, collection, {"id": "notes.txt", "text": NOTES})
    assert result.ingested.passage_count > 0
    assert client.vector_search.GetCollection({"collection": collection}).collection.model_revision == ours
    (last,) = client.rag.Reindex({"collection": collection})
    assert (last.result.recomputed_count, last.result.previous_model_revision) == (0, ours)


def test_what_cannot_be_reindexed_is_named(client: Client, collection: str) -> None:
    with pytest.raises(NotFound):
        list(client.rag.Reindex({"collection": "nowhere"}))
    with pytest.raises(InvalidArgument) as wrong:
        list(client.rag.Reindex({"collection": "no/name"}))
    assert wrong.value.field_violations[0].field == "collection"
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    client.vector_search.Upsert({"collection": collection, "entities": [{"id": "bare", "vector": [1, 2]}]})
    with pytest.raises(FailedPrecondition) as failure:
        list(client.rag.Reindex({"collection": collection}))
    assert (failure.value.reason, failure.value.metadata["id"]) == ("ENTITY_WITHOUT_TEXT", "bare")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_answers_from_facts_that_no_training_saw(client: Client, collection: str, figure: Figure) -> None:
    """Words, names and forms of their own, all in one collection; a fifth of the questions has no answer."""
    asked, documents = [], []
    for number, one in enumerate(recipe("starter/generator", "chats").made_up(240, 0.2, 7, held_out=True)):
        said, wanted = one["messages"][1]["content"], one["messages"][2]["content"]
        passages = re.findall(r"^\[\d\] (.*)$", said, re.MULTILINE)
        documents += [{"id": f"{number}-{place}", "text": text} for place, text in enumerate(passages, 1)]
        short, _, place = wanted.removesuffix("]").rpartition(" [")
        asked.append(
            (said.rpartition("Question: ")[2], f"{number}-{place}", "" if wanted == prompt.NO_ANSWER else short)
        )
    list(client.rag.Ingest(iter({"collection": collection, "document": one} for one in documents)))
    cited = right = abstained = 0
    for question, document, short in asked:
        answer = client.rag.Answer({"collection": collection, "question": question}, timeout=120)
        abstained += not short and not answer.answered
        if short and document in [citation.document_id for citation in answer.citations]:
            cited += 1
            right += short.lower() in answer.text.lower()
    answerable = sum(bool(short) for *_, short in asked)
    figure("made-up facts: right document cited", 100 * cited / answerable, "%")
    figure("made-up facts: right answer and citation", 100 * right / answerable, "%")
    figure("made-up facts: abstained where nothing answers", 100 * abstained / (len(asked) - answerable), "%")
    assert right >= 0.8 * answerable
