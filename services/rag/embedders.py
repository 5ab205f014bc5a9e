"""Which embedding model a collection's vectors are of, and all of them made anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from genmesh.v1 import embedding_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag.documents import context_line
from services.rag.merging import MergingUpstream
from services.rag.parents import CUT_AFTER, CUT_BEFORE
from services.rag.upstream import Upstream
from services.rag.versions import NOTHING, is_intent, place_holder, row_of
from services.runtime import identity
from services.runtime.channels import onward
from services.runtime.errors import (
    Aborted,
    FailedPrecondition,
    GenmeshError,
    InvalidArgument,
    Unavailable,
    calling,
    invalid,
)

DEFAULT_MODEL = "embedder"
MOST_COLLECTIONS = 10_000
VECTORS = ("vectors[0].values", "entities[0].vector")  # fields of requests to vector search


def embedded_text(context: str, text: str) -> str:
    """What is embedded of a passage under a title and headings."""
    return f"{context}\n{text}"


def name_of(revision: str) -> str:
    """The model of "name@revision"."""
    return revision.rpartition("@")[0]


class Embedders:
    """The models of collections. They are learnt from vector search, which refuses vectors of others: to ask it first would
    cost every question a call."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def of(self, collection: str) -> str:
        """The model to embed with; empty for the default one."""
        return self._names.get((identity.current().tenant, collection), "")

    def learn(self, collection: str, name: str) -> None:
        key = identity.current().tenant, collection
        self._names.pop(key, None)
        if name and name != DEFAULT_MODEL:
            self._names[key] = name
            while len(self._names) > MOST_COLLECTIONS:
                del self._names[next(iter(self._names))]

    def other(self, collection: str, failure: GenmeshError) -> bool:
        """Whether vectors were refused that another model should have made; it is what ``of`` says from now on. The failure
        then says what the caller of rag can do."""
        if failure.reason != "MODEL_REVISION_MISMATCH":
            return False
        theirs, ours = failure.metadata.get("collection_revision", ""), failure.metadata.get("request_revision", "")
        failure.message = (
            f"collection: the vectors of {collection!r} are of {theirs}, which is not served; there is {ours}. "
            "Reindex makes them anew"
        )
        failure.metadata["field"] = "collection"
        if name_of(theirs) == name_of(ours):
            return False
        self.learn(collection, name_of(theirs))
        return True


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Report vectors that the collection cannot hold as a fault of the collection: INVALID_ARGUMENT/VECTOR_LENGTH_MISMATCH."""
    try:
        yield
    except GenmeshError as failure:
        if failure.reason != "INVALID_FIELD" or not any(v.field in VECTORS for v in failure.violations):
            raise
        text = "is for vectors of another length than the embedding model makes"
        raise invalid("collection", text, reason="VECTOR_LENGTH_MISMATCH") from None


async def embed(
    upstream: Upstream | MergingUpstream, model: str, texts: Sequence[str], context: Any
) -> embedding_pb2.EmbedResponse:
    """The vectors of passages; PASSAGE_NOT_EMBEDDED where one has none."""
    with calling("embedding", "Embed"):
        answer: embedding_pb2.EmbedResponse = await upstream.embedding.Embed(
            embedding_pb2.EmbedRequest(model=model, inputs=texts, bulk=True), **onward(context)
        )
    if failed := next((result.error for result in answer.results if result.HasField("error")), None):
        raise InvalidArgument(f"a passage cannot be embedded: {failed.message}", reason="PASSAGE_NOT_EMBEDDED")
    return answer


def context_of(entity: vector_search_pb2.Entity) -> str:
    """What a passage stands under; empty for what Ingest did not make."""
    if row_of(entity) is None:
        return ""
    ours = entity.metadata.fields
    headings = [one.string_value for one in ours.get("_headings", NOTHING).list_value.values]
    return context_line(ours.get("_title", NOTHING).string_value, headings)


def text_of(entity: vector_search_pb2.Entity) -> str:
    """What is embedded of an entity; ENTITY_WITHOUT_TEXT where there is nothing."""
    text = entity.text
    if not text.strip():
        raise FailedPrecondition(
            f"collection: the entity {entity.id!r} has no text to embed; it was not stored by Ingest",
            reason="ENTITY_WITHOUT_TEXT", metadata={"field": "collection", "id": entity.id},
        )  # fmt: skip
    if row_of(entity) is None:
        return text
    # As Ingest embeds it: the marks of a cut sentence are of the stored text only.
    return embedded_text(context_of(entity), text.removeprefix(CUT_BEFORE).removesuffix(CUT_AFTER))


async def reindex(
    upstream: Upstream, collection: str, model: str, analyzer: str, context: Any
) -> AsyncGenerator[pb.ReindexResponse, None]:
    """Make all vectors of a collection anew, and its words where it has none of that analyzer."""
    with calling("vector_search", "GetCollection"):
        found = await upstream.vectors.GetCollection(
            vector_search_pb2.GetCollectionRequest(collection=collection), **onward(context)
        )
    before = found.collection.model_revision
    model = model or name_of(before) or DEFAULT_MODEL
    sample = await embed(upstream, model, ["?"], context)
    revision, dimension = sample.model_revision, sample.dimension
    with calling("vector_search", "ReplaceVectors"):
        call = upstream.vectors.ReplaceVectors(**onward(context))
        try:
            start = vector_search_pb2.ReplaceVectorsStart(
                collection=collection, model_revision=revision, dimension=dimension, analyzer=analyzer
            )
            answer = await _answer(call, vector_search_pb2.ReplaceVectorsRequest(start=start))
            while answer.HasField("batch"):
                batch = answer.batch
                vectors = await _vectors(upstream, model, revision, dimension, batch.entities, context)
                done = min(batch.done_count + len(batch.entities), batch.total_count)
                progress = pb.ReindexProgress(entities_done=done, entities_total=batch.total_count)
                answer = await _answer(call, vector_search_pb2.ReplaceVectorsRequest(vectors=vectors))
                yield pb.ReindexResponse(progress=progress)
        finally:
            call.cancel()
    yield pb.ReindexResponse(result=pb.ReindexResult(
        recomputed_count=answer.done.replaced_count, entity_count=answer.done.entity_count, previous_model_revision=before,
        model_revision=revision,
    ))  # fmt: skip


async def _answer(
    call: Any, request: vector_search_pb2.ReplaceVectorsRequest
) -> vector_search_pb2.ReplaceVectorsResponse:
    with contextlib.suppress(asyncio.InvalidStateError):  # the call has ended: to read tells how
        await call.write(request)
    answer = await call.read()
    if not isinstance(answer, vector_search_pb2.ReplaceVectorsResponse):
        raise Unavailable("vector search ended a call too early", reason="VECTOR_SEARCH_UNAVAILABLE")
    return answer


async def _vectors(
    upstream: Upstream, model: str, revision: str, dimension: int, entities: Sequence[vector_search_pb2.Entity],
    context: Any,
) -> vector_search_pb2.NewVectors:  # fmt: skip
    passages = [entity for entity in entities if not is_intent(entity)]
    made: Iterator[embedding_pb2.EmbeddingResult] = iter(())
    if passages:
        answer = await embed(upstream, model, [text_of(entity) for entity in passages], context)
        if answer.model_revision != revision:
            text = f"{model} was replaced meanwhile: {revision} by {answer.model_revision}; call again"
            raise Aborted(text, reason="MODEL_REPLACED", retry_after_seconds=1.0)
        made = iter(answer.results)
    found = vector_search_pb2.NewVectors(contexts=map(context_of, entities))
    for entity in entities:
        found.vectors.add(values=place_holder(dimension) if is_intent(entity) else next(made).embedding.values)
    return found
