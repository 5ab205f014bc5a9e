"""Proto in, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from genmesh.v1 import rag_pb2 as pb
from genmesh.v1 import rag_pb2_grpc as pb_grpc

from services.rag.embedders import reindex
from services.rag.ingest import Ingester
from services.rag.pipeline import DEFAULT_MAX_TOKENS, Pipeline
from services.rag.retrieval import BM25, DEFAULT_COLLECTION, Asked, Retriever
from services.runtime.errors import renamed
from services.runtime.outcome import Stopwatch
from services.runtime.validation import Fields

# Fields of the messages to other services, and what of ours they are made from.
FIELDS = {
    "inputs[0]": "question",
    "texts[0]": "question",
    "mode": "search_mode",
    "query": "question",
    "fixed_messages": "question",
    "messages": "question",
    "reserved_output_tokens": "max_tokens",
    "sampling.max_tokens": "max_tokens",
    "limit": "top_k",
}


def asked(request: Asked) -> Fields:
    """What is wrong with a question and how it is to be searched for."""
    fields = Fields()
    fields.text("question", request.question, most=4000)
    fields.number("expansions", request.expansions, 0, 5)
    fields.size("history", request.history, least=0, most=100)
    for i, message in enumerate(request.history[:100]):
        if message.role not in ("user", "assistant"):
            fields.fault(f"history[{i}].role", f"is {message.role!r}; user and assistant are allowed")
        fields.text(f"history[{i}].content", message.content, most=20_000)
    if request.hyde and request.search_mode == BM25:
        fields.fault("hyde", "needs vectors, and search_mode is SEARCH_MODE_BM25")
    return fields


class RagServicer(pb_grpc.RagServiceServicer):
    def __init__(self, pipeline: Pipeline, retriever: Retriever, ingester: Ingester) -> None:
        self.pipeline, self.retriever, self.ingester = pipeline, retriever, ingester

    async def Ingest(
        self, request_iterator: AsyncIterator[pb.IngestRequest], context: Any
    ) -> AsyncGenerator[pb.IngestResponse, None]:
        first = await anext(request_iterator, None)
        if first is None:
            return
        collection = first.collection or DEFAULT_COLLECTION
        await self.ingester.look(collection)

        async def documents() -> AsyncGenerator[pb.Document, None]:
            yield first.document
            async for request in request_iterator:
                yield request.document

        async with aclosing(self.ingester.ingest(documents(), collection, context, first.analyzer)) as events:
            async for event in events:
                yield event

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Any) -> pb.DeleteDocumentResponse:
        fields = Fields()
        fields.text("document_id", request.document_id, most=200)
        fields.done()
        count = await self.ingester.delete(request.collection or DEFAULT_COLLECTION, request.document_id, context)
        return pb.DeleteDocumentResponse(deleted_passages=count)

    async def Reindex(self, request: pb.ReindexRequest, context: Any) -> AsyncGenerator[pb.ReindexResponse, None]:
        collection = request.collection or DEFAULT_COLLECTION
        work = reindex(self.retriever.upstream, collection, request.model, request.analyzer, context)
        async with aclosing(work) as events:
            with renamed({"start.collection": "collection", "start.analyzer": "analyzer"}):
                async for event in events:
                    yield event

    async def Retrieve(self, request: pb.RetrieveRequest, context: Any) -> pb.RetrieveResponse:
        fields = asked(request)
        top = fields.defaulted("top_k", request.top_k, 4, 100)
        fields.done()
        watch, response = Stopwatch(), pb.RetrieveResponse()
        find = self.retriever.find(request, top, context, watch, rerank=not request.skip_rerank)
        async with aclosing(find) as steps:
            with renamed(FIELDS):
                async for step in steps:
                    if isinstance(step, pb.GeneratedQuery):
                        response.queries.append(step)
                    elif isinstance(step, list):
                        response.passages.extend(step)
        watch.content()
        response.timings.CopyFrom(watch.timings())
        return response

    async def _events(self, request: pb.AnswerRequest, context: Any) -> AsyncGenerator[pb.StreamAnswerResponse, None]:
        fields = asked(request)
        top = fields.defaulted("top_k", request.top_k, 4, 20)
        fields.defaulted("max_tokens", request.max_tokens, DEFAULT_MAX_TOKENS, 2**31 - 1)
        fields.done()
        # A context that is too small for the answer asked for is too small for any question.
        names = FIELDS | ({"fixed_messages": "max_tokens"} if request.max_tokens > DEFAULT_MAX_TOKENS else {})
        async with aclosing(self.pipeline.answer(request, top, context)) as events:
            with renamed(names):
                async for event in events:
                    yield event

    async def StreamAnswer(
        self, request: pb.AnswerRequest, context: Any
    ) -> AsyncGenerator[pb.StreamAnswerResponse, None]:
        async with aclosing(self._events(request, context)) as events:
            async for event in events:
                yield event

    async def Answer(self, request: pb.AnswerRequest, context: Any) -> pb.AnswerResponse:
        response = pb.AnswerResponse()
        async with aclosing(self._events(request, context)) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "text":
                    response.text += event.text.text
                elif kind == "citation":
                    response.citations.append(event.citation)
                elif kind == "query":
                    response.queries.append(event.query)
                elif kind == "passages":
                    response.passages.extend(event.passages.passages)
                elif kind == "summary":
                    response.answered, response.grounding = event.summary.answered, event.summary.grounding
                    response.usage.CopyFrom(event.summary.usage)
                    response.timings.CopyFrom(event.summary.timings)
        return response
