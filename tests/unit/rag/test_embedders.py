"""Questions and documents are embedded by the model that made a collection's vectors, as long as it is served."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from genmesh.v1 import embedding_pb2, tokenization_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb
from prometheus_client import CollectorRegistry

from services.rag.embedders import Embedders, context_of, embedded_text, name_of, text_of
from services.rag.ingest import Ingester
from services.rag.retrieval import Query, Retriever
from services.rag.versions import Cleaner
from services.runtime.errors import FailedPrecondition, GenmeshError, NotFound
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch
from tests.unit.rag.test_retrieval import settings
from tests.unit.runtime.test_errors import failure_of

CONTEXT, SETTINGS = SimpleNamespace(time_remaining=lambda: 30.0), settings()


class Services:
    """Two embedding models, and one collection, whose vectors are of ``revision``."""

    def __init__(self, revision: str) -> None:
        self.served = {"embedder": "embedder@2", "other": "other@1"}
        self.revision = revision
        self.embedded: list[str] = []
        self.rows: dict[str, vector_search_pb2.Entity] = {}
        self.embedding = self.vectors = self.tokenization = self

    async def Embed(self, request: Any, **_: Any) -> embedding_pb2.EmbedResponse:
        name = request.model or "embedder"
        self.embedded.append(name)
        if name not in self.served:
            raise failure_of(NotFound("no model", reason="MODEL_NOT_FOUND"))
        results = [
            embedding_pb2.EmbeddingResult(embedding=embedding_pb2.Embedding(values=[1, 0])) for _ in request.inputs
        ]
        return embedding_pb2.EmbedResponse(results=results, dimension=2, model_revision=self.served[name])

    def _check(self, request: Any) -> None:
        if request.model_revision != self.revision:
            metadata = {"collection_revision": self.revision, "request_revision": request.model_revision}
            raise failure_of(FailedPrecondition("another", reason="MODEL_REVISION_MISMATCH", metadata=metadata))

    async def Search(self, request: Any, **_: Any) -> vector_search_pb2.SearchResponse:
        self._check(request)
        hits = [vector_search_pb2.SearchHit(entity=vector_search_pb2.Entity(id="a", text="found"))]
        return vector_search_pb2.SearchResponse(results=[vector_search_pb2.SearchHits(hits=hits)])

    async def Upsert(self, request: Any, **_: Any) -> None:
        self._check(request)
        self.rows |= {entity.id: entity for entity in request.entities}

    async def Delete(self, request: Any, **_: Any) -> None:
        for one in request.ids:
            self.rows.pop(one, None)

    async def Get(self, request: Any, **_: Any) -> vector_search_pb2.GetResponse:
        found = [e for e in self.rows.values() if request.id_prefix and e.id.startswith(request.id_prefix)]
        return vector_search_pb2.GetResponse(entities=[*found, *(self.rows[i] for i in request.ids if i in self.rows)])

    async def Chunk(self, request: Any, **_: Any) -> tokenization_pb2.ChunkResponse:
        return tokenization_pb2.ChunkResponse(chunks=[tokenization_pb2.TextChunk(text=request.text, token_count=3)])


async def ask(retriever: Retriever) -> list[str]:
    watch = Stopwatch()
    query = await retriever.embed(Query(["why?"], vector_search_pb2.SEARCH_MODE_UNSPECIFIED), "", CONTEXT, watch)
    return [one.passage.text for one in await retriever.search(query, "", "", 3, CONTEXT, watch)]


@pytest.fixture(autouse=True)
def alpha(as_tenant: Any) -> None:
    as_tenant("alpha")


def made(services: Services) -> tuple[Retriever, Ingester]:
    metrics, embedders = Rag("rag", CollectorRegistry()), Embedders()
    cleaner = Cleaner("here", 60)
    return (
        Retriever(services, metrics, SETTINGS, embedders),  # type: ignore[arg-type]
        Ingester(services, metrics, SETTINGS, cleaner, embedders),  # type: ignore[arg-type]
    )


async def ingest(ingester: Ingester) -> pb.IngestResponse:
    return (await events(ingester, pb.Document(id="d", text="It is so.")))[-1]


async def events(ingester: Ingester, document: pb.Document) -> list[pb.IngestResponse]:
    async def stream() -> AsyncIterator[pb.Document]:
        yield document

    return [event async for event in ingester.ingest(stream(), "default", CONTEXT)]


async def test_the_model_of_the_collection_is_found_out_once() -> None:
    services = Services("other@1")
    retriever, _ = made(services)
    assert await ask(retriever) == ["found"]
    assert services.embedded == ["embedder", "other"]
    assert await ask(retriever) == ["found"]
    assert services.embedded == ["embedder", "other", "other"]
    services.revision = "embedder@2"  # reindexed
    assert await ask(retriever) == ["found"]
    assert await ask(retriever) == ["found"]
    assert services.embedded[3:] == ["other", "embedder", "embedder"]


@pytest.mark.parametrize("revision", ["embedder@1", "gone@1", "other@2"])
async def test_a_revision_that_is_not_served_is_said(revision: str) -> None:
    services = Services(revision)
    retriever, ingester = made(services)
    for _ in range(2):
        with pytest.raises(GenmeshError) as failure:
            await ask(retriever)
        assert failure.value.reason == "MODEL_REVISION_MISMATCH"
        assert failure.value.metadata["collection_revision"] == revision
        assert failure.value.metadata["field"] == "collection"
        assert failure.value.message.startswith(f"collection: the vectors of 'default' are of {revision}")
        failed = (await ingest(ingester)).failed
        assert (failed.reason, revision in failed.message) == ("MODEL_REVISION_MISMATCH", True)
    assert services.rows == {}


async def test_a_document_is_embedded_by_the_collections_model() -> None:
    services = Services("other@1")
    retriever, ingester = made(services)
    assert (await ingest(ingester)).ingested.passage_count == 1
    assert services.embedded == ["embedder", "other"]
    assert len(services.rows) == 1
    assert await ask(retriever) == ["found"]
    assert services.embedded[2:] == ["other"]


async def test_what_is_embedded_anew_is_what_ingest_embedded() -> None:
    services, texts = Services("embedder@2"), list[str]()
    original = services.Embed

    async def watched(request: Any, **more: Any) -> Any:
        texts.extend(request.inputs)
        return await original(request, **more)

    services.Embed = watched  # type: ignore[method-assign]
    _, ingester = made(services)
    document = pb.Document(id="d.md", title="Guide", text="# Pumps\n\nFive bar.\n\n## Valves\n\nClosed at night.")
    assert (await events(ingester, document))[-1].ingested.passage_count == 2
    assert [text_of(services.rows[one]) for one in sorted(services.rows)] == texts
    cut = vector_search_pb2.Entity()
    cut.CopyFrom(services.rows[min(services.rows)])
    cut.text = f"… {cut.text} …"
    assert text_of(cut) == texts[0]
    assert texts[0] == embedded_text("Guide > Pumps", "Five bar.")
    assert {context_of(entity) for entity in services.rows.values()} == {"Guide > Pumps", "Guide > Pumps > Valves"}
    assert all(entity.context == context_of(entity) for entity in services.rows.values())
    assert text_of(vector_search_pb2.Entity(id="x", text="… bare")) == "… bare"
    with pytest.raises(FailedPrecondition):
        text_of(vector_search_pb2.Entity(id="x", text=" \n"))


@pytest.mark.parametrize(("revision", "name"), [("a@1", "a"), ("a@b@1", "a@b"), ("", ""), ("a", "")])
def test_the_name_of_a_revision(revision: str, name: str) -> None:
    assert name_of(revision) == name
