"""Calls that several documents of one stream make at the same time, sent as one.

Storing a small document takes a dozen small calls, each of which waits for the one before (``versions.py``). With many documents
at work, the calls of one kind that come while another is on its way wait for its answer and then go out together. All of them have
the same caller and deadline.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any

import grpc
from genmesh.v1 import embedding_pb2, vector_search_pb2
from google.protobuf.message import Message

from services.rag.upstream import Upstream

# Of a merged call.
MOST_IDS, MOST_PREFIXES, MOST_TEXTS, MOST_BYTES = 1000, 100, 128, 4 * 2**20
# If one of these ends a merged call, each of its parts would fail as well.
OF_ALL = frozenset((
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED,
))  # fmt: skip


@dataclass(frozen=True)
class Part:
    request: Any
    arguments: dict[str, Any]
    response: asyncio.Future[Any]


class Merged:
    """A unary method whose requests are merged.

    ``key``: requests with the same one can be merged; None: this one never is. ``merge``: one request from several.
    ``split``: the response to each of them, None if it has to be asked for alone. ``count``: the part of ``most`` that a request takes.
    """

    def __init__(
        self, method: Callable[..., Awaitable[Any]], *, key: Callable[[Any], Hashable | None],
        merge: Callable[[Sequence[Any]], Message], split: Callable[[Sequence[Any], Any], Sequence[Any]],
        count: Callable[[Any], int], most: int,
    ) -> None:  # fmt: skip
        self.method, self.key, self.merge, self.split, self.count, self.most = method, key, merge, split, count, most
        self._waiting: defaultdict[Hashable, deque[Part]] = defaultdict(deque)
        self._senders: dict[Hashable, asyncio.Task[None]] = {}

    async def __call__(self, request: Any, **arguments: Any) -> Any:
        key = self.key(request)
        if key is None:
            return await self.method(request, **arguments)
        part = Part(request, arguments, asyncio.get_running_loop().create_future())
        self._waiting[key].append(part)
        if key not in self._senders:
            self._senders[key] = asyncio.create_task(self._send(key))
        return await part.response

    def close(self) -> None:
        """Cancel all calls."""
        for sender in self._senders.values():
            sender.cancel()
        for waiting in self._waiting.values():
            for part in waiting:
                part.response.cancel()

    async def _send(self, key: Hashable) -> None:
        try:
            while waiting := self._waiting[key]:
                await asyncio.sleep(0)  # others that can call now do
                if parts := self._next(waiting):
                    await self._call(parts)
        finally:
            # Not in a callback: a part that came before it ran would wait forever.
            del self._senders[key], self._waiting[key]

    def _next(self, waiting: deque[Part]) -> list[Part]:
        parts, total, size = list[Part](), 0, 0
        while waiting:
            request = waiting[0].request
            total, size = total + self.count(request), size + request.ByteSize()
            if parts and (total > self.most or size > MOST_BYTES):
                break
            part = waiting.popleft()
            if not part.response.done():  # cancelled
                parts.append(part)
        return parts

    async def _call(self, parts: Sequence[Part]) -> None:
        requests = [part.request for part in parts]
        alone = parts
        if len(parts) > 1:
            try:
                response = await self.method(self.merge(requests), **parts[0].arguments)
            except grpc.aio.AioRpcError as failure:
                if failure.code() in OF_ALL:
                    _end(parts, failure)
                    return
            except BaseException as failure:
                _end(parts, failure)
                raise
            else:
                responses = self.split(requests, response)
                alone = [part for part, own in zip(parts, responses, strict=True) if own is None]
                for part, own in zip(parts, responses, strict=True):
                    if own is not None and not part.response.done():
                        part.response.set_result(own)
        for part in alone:
            try:
                response = await self.method(part.request, **part.arguments)
            except BaseException as failure:
                _end([part], failure)
                if not isinstance(failure, grpc.aio.AioRpcError):
                    _end(parts, failure)
                    raise
            else:
                if not part.response.done():
                    part.response.set_result(response)


def _end(parts: Sequence[Part], failure: BaseException) -> None:
    for part in parts:
        if part.response.done():
            continue
        if isinstance(failure, asyncio.CancelledError):
            part.response.cancel()
        else:
            part.response.set_exception(failure)


class MergingUpstream:
    """The services that Ingest calls, as ``Upstream`` has them; for the calls of one stream."""

    def __init__(self, upstream: Upstream) -> None:
        self.tokenization = upstream.tokenization
        vectors = upstream.vectors
        self._merged = (
            Merged(
                vectors.Upsert, key=lambda one: (one.collection, one.model_revision), merge=_upsert, split=_upserted,
                count=lambda one: len(one.entities), most=MOST_IDS,
            ),
            Merged(
                vectors.Delete, key=lambda one: one.collection if one.ids else None, merge=_delete, split=_deleted,
                count=lambda one: len(one.ids), most=MOST_IDS,
            ),
            Merged(
                vectors.Get, key=_key_of_get, merge=_get, split=_got,
                count=lambda one: len(one.ids) or MOST_IDS // MOST_PREFIXES, most=MOST_IDS,
            ),
            Merged(
                upstream.embedding.Embed, key=lambda one: (one.model, one.bulk, one.reject_overlong), merge=_embed, split=_embedded,
                count=lambda one: len(one.inputs), most=MOST_TEXTS,
            ),
        )  # fmt: skip
        upsert, delete, get, embed = self._merged
        self.vectors = SimpleNamespace(Upsert=upsert, Delete=delete, Get=get)
        self.embedding = SimpleNamespace(Embed=embed)

    def close(self) -> None:
        for method in self._merged:
            method.close()


def _upsert(requests: Sequence[Any]) -> vector_search_pb2.UpsertRequest:
    merged = vector_search_pb2.UpsertRequest(
        collection=requests[0].collection, model_revision=requests[0].model_revision
    )
    for request in requests:
        merged.entities.extend(request.entities)
    return merged


def _upserted(requests: Sequence[Any], response: Any) -> list[vector_search_pb2.UpsertResponse]:
    return [vector_search_pb2.UpsertResponse(upserted_count=len(request.entities)) for request in requests]


def _delete(requests: Sequence[Any]) -> vector_search_pb2.DeleteRequest:
    return vector_search_pb2.DeleteRequest(
        collection=requests[0].collection, ids=[one for request in requests for one in request.ids]
    )


def _deleted(requests: Sequence[Any], response: Any) -> list[vector_search_pb2.DeleteResponse]:
    """Without counts, which nobody knows."""
    return [vector_search_pb2.DeleteResponse() for _ in requests]


def _key_of_get(request: Any) -> Hashable | None:
    if request.filter or request.include_vectors or request.page_token:
        return None
    return request.collection, "ids" if request.ids else request.page_size


def _get(requests: Sequence[Any]) -> vector_search_pb2.GetRequest:
    first = requests[0]
    return vector_search_pb2.GetRequest(
        collection=first.collection, ids=[one for request in requests for one in request.ids],
        id_prefixes=[request.id_prefix for request in requests if not first.ids], page_size=first.page_size,
    )  # fmt: skip


def _got(requests: Sequence[Any], response: Any) -> list[vector_search_pb2.GetResponse | None]:
    if requests[0].ids:
        by_id = {entity.id: entity for entity in response.entities}
        return [
            vector_search_pb2.GetResponse(entities=[by_id[one] for one in dict.fromkeys(request.ids) if one in by_id])
            for request in requests
        ]
    # Entities are ordered by id, so a page that is not the last is whole up to its last id.
    last = response.entities[-1].id if response.next_page_token else ""
    return [
        vector_search_pb2.GetResponse(entities=[one for one in response.entities if one.id.startswith(request.id_prefix)])
        if not last or (request.id_prefix < last and not last.startswith(request.id_prefix))
        else None
        for request in requests
    ]  # fmt: skip


def _embed(requests: Sequence[Any]) -> embedding_pb2.EmbedRequest:
    merged = embedding_pb2.EmbedRequest()
    merged.CopyFrom(requests[0])
    for request in requests[1:]:
        merged.inputs.extend(request.inputs)
    return merged


def _embedded(requests: Sequence[Any], response: Any) -> list[embedding_pb2.EmbedResponse]:
    """Each with its results and what holds for all; usage is not divided."""
    responses, results = list[embedding_pb2.EmbedResponse](), iter(response.results)
    for request in requests:
        own = embedding_pb2.EmbedResponse(model_revision=response.model_revision, dimension=response.dimension)
        own.results.extend(islice(results, len(request.inputs)))
        responses.append(own)
    return responses
