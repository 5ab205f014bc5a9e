"""Documents in: sections, passages, vectors, stored whole or not at all (``versions.py``)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from genmesh.v1 import embedding_pb2, tokenization_pb2, vector_search_pb2
from genmesh.v1 import rag_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from services.rag.documents import Section, context_line, read, title_of
from services.rag.embedders import Embedders, embed, embedded_text, fitting
from services.rag.merging import MergingUpstream
from services.rag.parents import BETWEEN_SECTIONS, Piece, families, pieces
from services.rag.settings import Settings
from services.rag.streams import in_order
from services.rag.upstream import Upstream
from services.rag.versions import Cleaner, Row, Rows, Writing, delete, passage_id, revision_after, take_back
from services.runtime import identity
from services.runtime.channels import onward
from services.runtime.errors import Aborted, AlreadyExists, GenmeshError, InvalidArgument, NotFound, calling, renamed
from services.runtime.metrics import Rag
from services.runtime.validation import metadata_fault
from services.runtime.work import aside

log = logging.getLogger(__name__)
MOST_CHARACTERS, MOST_TITLE_CHARACTERS = 5_000_000, 1000
# UTF-8 bytes of a text.
MOST_BYTES = 16 * 2**20
# Bytes of metadata as JSON: less than an entity may have, as title and headings are added.
DOCUMENT_METADATA_BYTES = 56 * 2**10
CHUNK_CHARACTERS = 1_000_000
BATCH = 64
UNDO_SECONDS = 10  # of one call
TOKEN_CHARACTERS = 3  # of a text, at least on average


def document_fault(document: pb.Document) -> tuple[str, str] | None:
    """(reason, message) where a document cannot be taken in."""
    if not 1 <= len(document.id.encode()) <= 200:
        return "DOCUMENT_ID_INVALID", f"document.id has {len(document.id.encode())} bytes; 1 to 200 are allowed"
    if any(ord(c) < 32 for c in document.id):
        return "DOCUMENT_ID_INVALID", "document.id has a control character"
    if not document.text.strip():
        return "DOCUMENT_EMPTY", "document.text is empty or holds white space only"
    if len(document.title) > MOST_TITLE_CHARACTERS:
        return (
            "TITLE_TOO_LONG",
            f"document.title has {len(document.title)} characters; at most {MOST_TITLE_CHARACTERS} are allowed",
        )
    if len(document.text) > MOST_CHARACTERS:
        return (
            "DOCUMENT_TOO_LONG",
            f"document.text has {len(document.text)} characters; at most {MOST_CHARACTERS} are allowed",
        )
    if (size := len(document.text.encode())) > MOST_BYTES:
        return "DOCUMENT_TOO_LONG", f"document.text has {size} bytes; at most {MOST_BYTES} are allowed"
    if document.format not in pb.DocumentFormat.values():
        return "FORMAT_UNKNOWN", f"document.format is {document.format}, which is none of DocumentFormat"
    if fault := metadata_fault(document.metadata, DOCUMENT_METADATA_BYTES):
        return "METADATA_INVALID", f"document.metadata {fault}"
    if reserved := sorted(name for name in document.metadata.fields if name.startswith("_")):
        return (
            "METADATA_RESERVED",
            f"document.metadata has {', '.join(reserved)}; names that begin with '_' are reserved",
        )
    return None


class Ingester:
    """Stores documents and deletes them."""

    def __init__(
        self, upstream: Upstream, metrics: Rag, settings: Settings, cleaner: Cleaner, embedders: Embedders
    ) -> None:
        self.upstream, self.metrics, self.settings, self.cleaner = upstream, metrics, settings, cleaner
        self.embedders = embedders

    async def look(self, collection: str) -> None:
        """Clear up what writers that died left behind."""
        metadata = identity.current().metadata()
        rows = Rows(self.upstream.vectors, collection, lambda: {"metadata": metadata, "timeout": UNDO_SECONDS})
        await self.cleaner.look(rows, identity.current().tenant)

    async def ingest(
        self, documents: AsyncIterator[pb.Document], collection: str, context: Any, analyzer: str = ""
    ) -> AsyncGenerator[pb.IngestResponse, None]:
        """Progress and the result of each document, in their order. Up to AT_ONCE are stored at the same time.

        The failure of a document is an event, not an error.
        """
        calls = MergingUpstream(self.upstream)

        def store(document: pb.Document) -> AsyncGenerator[pb.IngestResponse, None]:
            return self._ingest(document, collection, analyzer, context, calls)

        try:
            async with aclosing(in_order(documents, store)) as events:
                async for event in events:
                    yield event
        finally:
            calls.close()

    async def _ingest(
        self, document: pb.Document, collection: str, analyzer: str, context: Any, calls: MergingUpstream
    ) -> AsyncGenerator[pb.IngestResponse, None]:
        fault = document_fault(document)
        try:
            if fault is None:
                with renamed({"collection.name": "collection", "collection.analyzer": "analyzer"}), fitting():
                    async with aclosing(self._stored(document, collection, analyzer, context, calls)) as events:
                        async for event in events:
                            yield event
                self.metrics.documents.labels("ingested").inc()
                return
        except GenmeshError as failure:
            fields = {violation.field for violation in failure.violations}
            if failure.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED") or fields & {
                "collection",
                "analyzer",
            }:
                raise  # the next documents would fail too
            fault = failure.reason, failure.message
        self.metrics.documents.labels("failed").inc()
        yield pb.IngestResponse(failed=pb.DocumentFailed(document_id=document.id, reason=fault[0], message=fault[1]))

    async def _pieces(self, parts: list[Section], context: Any) -> list[Piece]:
        found: list[Piece] = []
        for section in parts:
            chunks = []
            for start in range(0, len(section.text), CHUNK_CHARACTERS):
                text = section.text[start : start + CHUNK_CHARACTERS]
                if not text.strip():
                    continue
                request = tokenization_pb2.ChunkRequest(
                    text=text, max_tokens=self.settings.passage_tokens,
                    overlap_tokens=self.settings.passage_overlap_tokens,
                )  # fmt: skip
                with calling("tokenization", "Chunk"):
                    answer = await self.upstream.tokenization.Chunk(request, **onward(context))
                chunks += [(start, chunk) for chunk in answer.chunks if chunk.text]
            goes_on = found and found[-1].section.headings == section.headings
            found += pieces(section, chunks, BETWEEN_SECTIONS if goes_on else "")
        return found

    async def _stored(
        self, document: pb.Document, collection: str, analyzer: str, context: Any, calls: MergingUpstream
    ) -> AsyncGenerator[pb.IngestResponse, None]:
        """Store a document; once more where the collection's vectors are of another model than it was taken for."""
        refused: GenmeshError | None = None
        while True:
            try:
                async with aclosing(self._store(document, collection, analyzer, context, calls)) as events:
                    async for event in events:
                        yield event
                return
            except GenmeshError as failure:
                if failure.reason == "MODEL_NOT_FOUND" and self.embedders.of(collection):
                    self.embedders.learn(collection, "")
                    if refused is not None:
                        raise refused from None
                elif not self.embedders.other(collection, failure) or refused is not None:
                    raise
                else:
                    refused = failure

    async def _store(
        self, document: pb.Document, collection: str, analyzer: str, context: Any, calls: MergingUpstream
    ) -> AsyncGenerator[pb.IngestResponse, None]:
        begun = time.time()
        said, parts = await aside(len(document.text), read, document, TOKEN_CHARACTERS * self.settings.passage_tokens)
        head = said.pop("title") if isinstance(said.get("title"), int | float | str) else ""
        title = title_of(document, parts, str(head))
        metadata = Struct()
        metadata.update(said)
        metadata.MergeFrom(document.metadata)
        if fault := metadata_fault(metadata, DOCUMENT_METADATA_BYTES):
            raise InvalidArgument(f"document.text: its YAML head {fault}", reason="METADATA_INVALID")
        rows = Rows(calls.vectors, collection, lambda: onward(context))
        there = await self._there(rows, document.id)
        if there is None:
            self.embedders.learn(collection, "")
        revision = revision_after(there or (), begun)
        passages = await self._pieces(parts, context)
        if not passages:
            raise InvalidArgument("document.text has no text besides headings and markup", reason="DOCUMENT_EMPTY")
        parents = families(passages, self.settings.parent_tokens)
        writing, head = Writing(rows, document.id, revision), vector_search_pb2.Entity()
        self.cleaner.live.add(writing.intent.id)
        try:
            for start in range(0, len(passages), BATCH):
                batch = passages[start : start + BATCH]
                texts = [embedded_text(context_line(title, one.section.headings), one.chunk.text) for one in batch]
                answer = await embed(calls, self.embedders.of(collection), texts, context)
                if answer.model_revision != (rows.model_revision or answer.model_revision):
                    raise Aborted("the embedding model was replaced meanwhile", reason="MODEL_REPLACED")
                rows.model_revision = answer.model_revision
                entities = [
                    self._entity(
                        document, metadata, title, revision, at, parents[at], passages[at], result.embedding.values
                    )
                    for at, result in enumerate(answer.results, start)
                ]
                if start == 0:
                    if there is None:
                        await self._ensure(collection, answer, analyzer, context)
                    if there or len(passages) > 1:  # else one write is all
                        await writing.begin(answer.dimension, self.cleaner.place)
                    head = entities.pop(0)
                await writing.add(entities)
                done = min(start + BATCH, len(passages))
                progress = pb.IngestProgress(document_id=document.id, passages_done=done, passages_total=len(passages))
                yield pb.IngestResponse(progress=progress)
            await writing.commit(head, len(passages))
        except BaseException:
            self.cleaner.forget(writing.intent, doubtful=writing.doubtful)
            if writing.wrote:
                # Also when the caller left: on a task of its own, with a deadline of its own.
                undo = asyncio.ensure_future(self._undo(writing))
                await asyncio.shield(undo)
            raise
        self.cleaner.forget(writing.intent, doubtful=False)
        self.metrics.passages.inc(len(passages))
        total = sum(one.chunk.token_count for one in passages)
        yield pb.IngestResponse(
            ingested=pb.DocumentIngested(document_id=document.id, passage_count=len(passages), token_count=total)
        )

    async def _there(self, rows: Rows, document: str) -> list[Row] | None:
        """A document's rows; None where the collection is not there."""
        try:
            return await rows.of(document)
        except GenmeshError as failure:
            if failure.reason != "COLLECTION_NOT_FOUND":
                raise
            return None

    async def _undo(self, writing: Writing) -> None:
        """Take back what was stored; what fails here must not hide why, and is the cleaner's."""
        metadata = identity.current().metadata()
        rows = Rows(
            self.upstream.vectors, writing.rows.collection, lambda: {"metadata": metadata, "timeout": UNDO_SECONDS}
        )
        try:
            await take_back(rows, writing)
        except GenmeshError as failure:
            log.warning("passages of a document that was not taken in are left behind for now: %s", failure)
            await self.look(writing.rows.collection)

    @staticmethod
    def _entity(
        document: pb.Document, metadata: Struct, title: str, revision: int, position: int, parent: tuple[int, int],
        passage: Piece, vector: Any,
    ) -> vector_search_pb2.Entity:  # fmt: skip
        headings = passage.section.headings
        entity = vector_search_pb2.Entity(
            id=passage_id(document.id, revision, position),
            vector=vector,
            text=passage.text,
            context=context_line(title, headings),
        )
        entity.metadata.CopyFrom(metadata)
        entity.metadata.update({
            "_document": document.id, "_title": title, "_revision": revision, "_position": position,
            "_headings": list(headings),
        })  # fmt: skip
        entity.metadata.update(passage.metadata(parent))
        return entity

    async def _ensure(self, collection: str, answer: embedding_pb2.EmbedResponse, analyzer: str, context: Any) -> None:
        """Make the collection, for the vectors of this answer, unless it is there."""
        wanted = vector_search_pb2.Collection(
            name=collection, dimension=answer.dimension, metric=vector_search_pb2.METRIC_COSINE,
            model_revision=answer.model_revision, analyzer=analyzer,
        )  # fmt: skip
        try:
            with calling("vector_search", "CreateCollection"):
                await self.upstream.vectors.CreateCollection(
                    vector_search_pb2.CreateCollectionRequest(collection=wanted), **onward(context)
                )
        except GenmeshError as failure:
            if failure.code is not AlreadyExists.code:
                raise

    async def delete(self, collection: str, document_id: str, context: Any) -> int:
        """Delete a document; DOCUMENT_NOT_FOUND where there is none of that id."""
        rows = Rows(self.upstream.vectors, collection, lambda: onward(context))
        try:
            count = await delete(rows, document_id, self.cleaner.place)
        except GenmeshError as failure:
            if failure.reason != "MODEL_REVISION_MISMATCH":
                raise
            count = await delete(rows, document_id, self.cleaner.place)  # its vectors were replaced meanwhile
        if not count:
            raise NotFound(
                f"document_id: there is no document {document_id!r}",
                reason="DOCUMENT_NOT_FOUND",
                metadata={"field": "document_id"},
            )
        return count
