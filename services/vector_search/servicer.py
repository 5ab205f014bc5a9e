"""Proto in, proto out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from genmesh.v1 import vector_search_pb2 as pb
from genmesh.v1 import vector_search_pb2_grpc as pb_grpc
from google.protobuf import json_format

from services.runtime import identity
from services.runtime.errors import NotFound, answer_too_large, invalid
from services.runtime.validation import Fields, metadata_fault
from services.runtime.work import aside, together
from services.vector_search.analysis import ANALYZERS
from services.vector_search.filters import compile_filter
from services.vector_search.fusion import DEFAULT_K, Fuse, Hit, Lists, depth, fused, reciprocal_rank, weighted
from services.vector_search.generations import CONTEXT_BYTES, Shape
from services.vector_search.replacement import Replacement
from services.vector_search.store import CollectionInfo, Found, Read, Store, check_revision

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
REVISION = re.compile(r"[^@]+@.+")
METRICS = {
    pb.METRIC_UNSPECIFIED: "COSINE",
    pb.METRIC_COSINE: "COSINE",
    pb.METRIC_INNER_PRODUCT: "IP",
    pb.METRIC_EUCLIDEAN: "L2",
}
METRIC_OF = {"COSINE": pb.METRIC_COSINE, "IP": pb.METRIC_INNER_PRODUCT, "L2": pb.METRIC_EUCLIDEAN}
# The most bytes of entities in one answer.
ANSWER_BYTES = 16 * 2**20
ENTITIES = "selects entities"
TEXT_BYTES = 65_535
# What a hit takes, about.
HIT_BYTES = 1024
CHECK_BYTES = 8
Fault = tuple[str, str]  # of a vector: the place in it and a text
FLOAT_MAX = 3.4028234663852886e38
SHORTEST, LONGEST = 1e-18, 1e18


def check_name(fields: Fields, field: str, name: str) -> None:
    if not NAME.fullmatch(name):
        fields.fault(field, "must be 1 to 64 letters, digits, '_' or '-', the first a letter or digit")


def check_revision_name(fields: Fields, field: str, revision: str, *, least: int = 0) -> None:
    fields.text(field, revision, least=least, most=200, blank=True)
    if revision and not REVISION.fullmatch(revision):
        fields.fault(field, 'must be "name@revision"')


def check_analyzer(fields: Fields, field: str, analyzer: str) -> None:
    if analyzer and analyzer not in ANALYZERS:
        fields.fault(field, f"must be one of {', '.join(ANALYZERS)}")


def check_context(fields: Fields, field: str, context: str) -> None:
    if (size := len(context.encode())) > CONTEXT_BYTES:
        fields.fault(field, f"has {size} bytes; at most {CONTEXT_BYTES} are allowed")


def vector_fault(values: Sequence[float], shape: Shape) -> Fault | None:
    """What is wrong with a vector for a collection: the place in it and a text.

    Beyond the lengths that are allowed squares leave float32's range, and scores would be 0, infinite or no number.
    """
    if len(values) != shape.dimension:
        return "", f"has {len(values)} values; the collection's vectors have {shape.dimension}"
    length = math.hypot(*values)
    if not math.isfinite(length):
        at = next(i for i, v in enumerate(values) if not math.isfinite(v))
        return f"[{at}]", f"is {values[at]}; values must be finite"
    if length > LONGEST:
        return "", f"has the length {length:.4g}; at most {LONGEST:g} is allowed"
    if shape.metric == "COSINE" and length < SHORTEST:
        return "", f"has the length {length:.4g}; a cosine needs at least {SHORTEST:g}"
    return None


def vector_faults(vectors: Sequence[Sequence[float]], shape: Shape) -> list[Fault | None]:
    return [vector_fault(vector, shape) for vector in vectors]


def to_row(entity: pb.Entity) -> dict[str, Any]:
    return {
        "id": entity.id,
        "vector": list(entity.vector),
        "text": entity.text,
        "context": entity.context,
        "metadata": json_format.MessageToDict(entity.metadata),
    }


def from_row(row: dict[str, Any]) -> pb.Entity:
    entity = pb.Entity(
        id=row["id"], text=row.get("text", ""), vector=row.get("vector", ()), context=row.get("context", "")
    )
    metadata = row.get("metadata") or {}
    entity.metadata.update(json.loads(metadata) if isinstance(metadata, str | bytes) else metadata)
    return entity


def to_collection(info: CollectionInfo) -> pb.Collection:
    return pb.Collection(
        name=info.name, dimension=info.shape.dimension, metric=METRIC_OF.get(info.shape.metric, pb.METRIC_UNSPECIFIED),
        description=info.shape.description, entity_count=info.count, model_revision=info.shape.revision,
        analyzer=info.shape.analyzer,
    )  # fmt: skip


def check_queries(fields: Fields, request: pb.SearchRequest) -> None:
    """Vectors and texts as the mode needs them."""
    vectors, texts = len(request.vectors), len(request.texts)
    if request.mode not in pb.SearchMode.values():
        fields.fault("mode", f"is {request.mode}, which is no mode")
    if request.mode == pb.SEARCH_MODE_BM25:
        fields.size("texts", request.texts, most=64)
        if vectors:
            fields.fault("vectors", "belong to DENSE and HYBRID; a BM25 search takes texts")
    else:
        fields.size("vectors", request.vectors, most=64)
        if request.mode == pb.SEARCH_MODE_HYBRID and texts != vectors:
            fields.fault("texts", f"has {texts} elements; a HYBRID search takes as many as vectors, {vectors}")
        elif request.mode != pb.SEARCH_MODE_HYBRID and texts:
            fields.fault("texts", "belong to BM25 and HYBRID; a DENSE search takes vectors")
    for i, text in enumerate(request.texts):
        if (size := len(text.encode())) > TEXT_BYTES:
            fields.fault(f"texts[{i}]", f"has {size} bytes; at most {TEXT_BYTES} are allowed")


def check_fusion(fields: Fields, request: pb.SearchRequest) -> Fuse | None:
    """How to fuse; None where nothing is fused."""
    if request.mode != pb.SEARCH_MODE_HYBRID:
        if request.HasField("fusion"):
            fields.fault("fusion", "belongs to HYBRID")
        return None
    if request.fusion.WhichOneof("method") != "weighted":
        k = request.fusion.reciprocal_rank.k
        return reciprocal_rank(fields.defaulted("fusion.reciprocal_rank.k", k, DEFAULT_K, 16_384))
    weights = request.fusion.weighted
    for name in ("dense", "bm25"):
        fields.number(f"fusion.weighted.{name}", getattr(weights, name), 0, 1)
    if not weights.dense and not weights.bm25:
        fields.fault("fusion.weighted", "has two weights of 0")
    return weighted(weights.dense, weights.bm25)


def check_prefix(fields: Fields, field: str, prefix: str) -> None:
    if (size := len(prefix.encode())) > 256:
        fields.fault(field, f"has {size} bytes; at most 256 are allowed")


def token_of(place: str, *asked: str) -> str:
    """A page token: its place, and what the pages are of (``asked``) as a checksum."""
    return base64.urlsafe_b64encode(_check(place, asked) + place.encode()).decode()


def place_of(token: str, *asked: str) -> str:
    if not token:
        return ""
    with contextlib.suppress(ValueError):
        found = base64.b64decode(token, altchars=b"-_", validate=True)
        place = found[CHECK_BYTES:].decode()
        if found[:CHECK_BYTES] == _check(place, asked):
            return place
    raise invalid(
        "page_token", "is not one that this method gave for this collection, filter and id_prefix",
        reason="INVALID_PAGE_TOKEN",
    )  # fmt: skip


def _check(place: str, asked: Sequence[str]) -> bytes:
    return hashlib.blake2b(json.dumps([place, *asked]).encode(), digest_size=CHECK_BYTES).digest()


class VectorSearchServicer(pb_grpc.VectorSearchServiceServicer):
    def __init__(self, store: Store) -> None:
        self.store = store

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Any) -> pb.CreateCollectionResponse:
        fields, wanted = Fields(), request.collection
        check_name(fields, "collection.name", wanted.name)
        fields.number("collection.dimension", wanted.dimension, 1, 32_768)
        fields.text("collection.description", wanted.description, least=0, most=1000, blank=True)
        check_revision_name(fields, "collection.model_revision", wanted.model_revision)
        if wanted.metric not in METRICS:
            fields.fault("collection.metric", f"is {wanted.metric}, which is no metric")
        check_analyzer(fields, "collection.analyzer", wanted.analyzer)
        fields.done()
        tenant = identity.current().tenant
        await self.store.create(
            tenant, wanted.name, wanted.dimension, METRICS[wanted.metric], wanted.description, wanted.model_revision,
            wanted.analyzer,
        )  # fmt: skip
        return pb.CreateCollectionResponse(collection=to_collection(await self.store.describe(tenant, wanted.name)))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Any) -> pb.GetCollectionResponse:
        self._named(request.collection)
        info = await self.store.describe(identity.current().tenant, request.collection)
        return pb.GetCollectionResponse(collection=to_collection(info))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Any) -> pb.ListCollectionsResponse:
        fields = Fields()
        size = fields.defaulted("page_size", request.page_size, 100, 1000)
        fields.done()
        tenant = identity.current().tenant
        asked = ("ListCollections", tenant)
        after = place_of(request.page_token, *asked)
        names = [name for name in await self.store.names(tenant) if name > after]
        token = token_of(names[size - 1], *asked) if len(names) > size else ""
        response = pb.ListCollectionsResponse(next_page_token=token)
        for name in names[:size]:
            with contextlib.suppress(NotFound):  # deleted meanwhile
                response.collections.append(to_collection(await self.store.describe(tenant, name)))
        return response

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, context: Any) -> pb.DeleteCollectionResponse:
        self._named(request.collection)
        await self.store.drop(identity.current().tenant, request.collection)
        return pb.DeleteCollectionResponse()

    async def Upsert(self, request: pb.UpsertRequest, context: Any) -> pb.UpsertResponse:
        return pb.UpsertResponse(upserted_count=await self._upsert(request, ""))

    async def UpsertStream(
        self, request_iterator: AsyncIterator[pb.UpsertStreamRequest], context: Any
    ) -> AsyncGenerator[pb.UpsertStreamResponse, None]:
        total = 0
        async for message in request_iterator:
            stored = await self._upsert(message.request, "request.")
            total += stored
            yield pb.UpsertStreamResponse(upserted_count=stored, total_count=total)

    async def _upsert(self, request: pb.UpsertRequest, prefix: str) -> int:
        self._of_model(request, prefix)
        size = request.ByteSize()
        vectors = [entity.vector for entity in request.entities]
        faults = await self._vector_faults(request.collection, vectors, size, request.model_revision)
        rows = await aside(size, self._rows, request, prefix, faults)
        tenant = identity.current().tenant
        return await self.store.upsert(
            tenant, request.collection, rows, f"{prefix}entities[0].vector", request.model_revision
        )

    def _rows(self, request: pb.UpsertRequest, prefix: str, faults: Sequence[Fault | None]) -> list[dict[str, Any]]:
        fields = Fields()
        fields.size(f"{prefix}entities", request.entities, most=1000)
        seen: set[str] = set()
        rows = []
        for i, entity in enumerate(request.entities):
            path = f"{prefix}entities[{i}]"
            self._id(fields, f"{path}.id", entity.id)
            if entity.id in seen:
                fields.fault(f"{path}.id", f"{entity.id!r} stands in this request twice")
            seen.add(entity.id)
            if (fault := faults[i]) is not None:
                fields.fault(f"{path}.vector{fault[0]}", fault[1])
            if (size := len(entity.text.encode())) > TEXT_BYTES:
                fields.fault(f"{path}.text", f"has {size} bytes; at most {TEXT_BYTES} are allowed")
            check_context(fields, f"{path}.context", entity.context)
            if description := metadata_fault(entity.metadata):
                fields.fault(f"{path}.metadata", description)
            else:
                rows.append(to_row(entity))
        fields.done()
        return rows

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        self._named(request.collection)
        fields = Fields()
        self._ids(fields, request.ids)
        if bool(request.ids) == bool(request.filter.strip()):
            fields.fault("filter", "either ids or a filter must be given, and not both")
        fields.done()
        expression = compile_filter(request.filter)
        count = await self.store.delete(
            identity.current().tenant, request.collection, list(dict.fromkeys(request.ids)), expression
        )
        return pb.DeleteResponse(deleted_count=count)

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        self._named(request.collection)
        fields = Fields()
        self._ids(fields, request.ids)
        if request.ids and request.filter.strip():
            fields.fault("filter", "ids and a filter exclude each other")
        if request.ids and request.id_prefix:
            fields.fault("id_prefix", "ids and id_prefix exclude each other")
        if request.id_prefixes and (request.ids or request.id_prefix):
            fields.fault("id_prefixes", "ids, id_prefix and id_prefixes exclude each other")
        fields.size("id_prefixes", request.id_prefixes, least=0, most=100)
        if request.ids and request.page_token:
            fields.fault("page_token", "ids and a page_token exclude each other")
        check_prefix(fields, "id_prefix", request.id_prefix)
        for i, prefix in enumerate(request.id_prefixes):
            check_prefix(fields, f"id_prefixes[{i}]", prefix)
        size = fields.defaulted("page_size", request.page_size, 100, 1000)
        fields.done()
        tenant, ids = identity.current().tenant, list(dict.fromkeys(request.ids))
        prefixes = list(request.id_prefixes) or [request.id_prefix]
        asked = ("Get", tenant, request.collection, request.filter, *prefixes)
        response, room = pb.GetResponse(), ANSWER_BYTES
        if not request.ids:
            expression, after = compile_filter(request.filter), place_of(request.page_token, *asked)
            ids = await self.store.ids_after(tenant, request.collection, expression, after, size + 1, prefixes)
            if len(ids) > size:
                ids.pop()
                response.next_page_token = token_of(ids[-1], *asked)
        found = self.store.get(tenant, request.collection, ids, vectors=request.include_vectors)
        async with aclosing(found) as rows:
            async for row in rows:
                entity = from_row(row)
                room -= entity.ByteSize()
                if room < 0 and request.ids:
                    raise answer_too_large("ids", ENTITIES, ANSWER_BYTES, "fewer ids")
                if room < 0 and response.entities:
                    response.next_page_token = token_of(response.entities[-1].id, *asked)
                    break
                response.entities.append(entity)
        return response

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        self._of_model(request)
        expression = compile_filter(request.filter)
        vectors = [vector.values for vector in request.vectors]
        faults = (
            await self._vector_faults(request.collection, vectors, request.ByteSize(), request.model_revision)
            if vectors
            else []
        )
        fields = Fields()
        check_queries(fields, request)
        for i, fault in enumerate(faults):
            if fault is not None:
                fields.fault(f"vectors[{i}].values{fault[0]}", fault[1])
        fuse = check_fusion(fields, request)
        by_vector = request.mode in (pb.SEARCH_MODE_UNSPECIFIED, pb.SEARCH_MODE_DENSE)
        limit = fields.defaulted("limit", request.limit, 10, 1000)
        threshold = request.score_threshold if request.HasField("score_threshold") else None
        if threshold is not None:
            fields.number("score_threshold", threshold, -FLOAT_MAX, FLOAT_MAX)
        fields.done()
        found = await self._found(request, expression, limit, fuse)
        if threshold is not None:
            distances = by_vector and await self._metric(request.collection) == "L2"
            sign = -1 if distances else 1
            found = [[hit for hit in hits if sign * hit.score >= sign * threshold] for hits in found]
        response, unread = await aside(sum(map(len, found)) * HIT_BYTES, self._hits, found)
        room = ANSWER_BYTES - response.ByteSize()
        if unread:
            room -= await self._read(request, response, unread, room)
        if room < 0:
            raise answer_too_large("limit", ENTITIES, ANSWER_BYTES, "fewer hits, or with fewer vectors")
        return response

    async def _found(
        self, request: pb.SearchRequest, expression: str, limit: int, fuse: Fuse | None
    ) -> list[list[Hit]]:
        """For each query its hits, best first."""
        tenant, texts = identity.current().tenant, list(request.texts)
        vectors = [list(vector.values) for vector in request.vectors]
        self.store.metrics.queries.inc(len(vectors) or len(texts))
        by_word = partial(self.store.search_words, tenant, request.collection, texts, expression)
        by_vector = partial(
            self.store.search, tenant, request.collection, vectors, expression, revision=request.model_revision
        )
        if fuse is not None:
            deep = depth(limit)
            by_vectors, by_words = await together([by_vector(deep), by_word(deep)])
            metric = await self._metric(request.collection)
            found = await together(
                self._lists(request.collection, *one, metric)
                for one in zip(vectors, texts, by_vectors, by_words, strict=True)
            )
            return [fused(fuse, one, limit) for one in found]
        read = Read.ALL if request.include_vectors else Read.ENTITIES
        if request.mode == pb.SEARCH_MODE_BM25:
            bm25 = await by_word(limit, read=read)
            return [[Hit(h["id"], h["distance"], None, h["distance"], h["entity"]) for h in hits] for hits in bm25]
        dense = await by_vector(limit, read=read)
        return [[Hit(h["id"], h["distance"], h["distance"], None, h["entity"]) for h in hits] for hits in dense]

    async def _lists(
        self, name: str, vector: Sequence[float], text: str, by_vector: Found, by_word: Found, metric: str
    ) -> Lists:
        """What two searches found for a query, and what the hits of each have in the other."""
        tenant = identity.current().tenant
        dense, bm25 = ({hit["id"]: hit["distance"] for hit in hits} for hits in (by_vector, by_word))
        dense_of_others, bm25_of_others = await together([
            self.store.nearness(tenant, name, vector, [one for one in bm25 if one not in dense]),
            self.store.scores_of_words(tenant, name, text, [one for one in dense if one not in bm25] if bm25 else []),
        ])  # fmt: skip
        return Lists(list(dense), list(bm25), dense | dense_of_others, bm25 | bm25_of_others, metric)

    async def _metric(self, collection: str) -> str:
        """To be asked after a search, which has looked at the collection anew where it was replaced."""
        return (await self.store.shape(identity.current().tenant, collection)).metric

    @staticmethod
    def _hits(found: Sequence[Sequence[Hit]]) -> tuple[pb.SearchResponse, dict[str, list[pb.SearchHit]]]:
        """An answer, and by id its hits whose entities are still to be read."""
        response = pb.SearchResponse()
        unread: dict[str, list[pb.SearchHit]] = {}
        for hits in found:
            result = response.results.add()
            for hit in hits:
                one = result.hits.add(
                    entity=from_row({"id": hit.id, **hit.entity}), score=hit.score, dense_score=hit.dense,
                    bm25_score=hit.bm25,
                )  # fmt: skip
                if "text" not in hit.entity:
                    unread.setdefault(hit.id, []).append(one)
        return response, unread

    async def _read(
        self, request: pb.SearchRequest, response: pb.SearchResponse, unread: dict[str, list[pb.SearchHit]], room: int
    ) -> int:
        """Read the entities of hits that have only their ids, as far as there is room; the bytes that they take, more
        than ``room`` where it was too little."""
        needed, tenant = 0, identity.current().tenant
        found = self.store.get(tenant, request.collection, list(unread), vectors=request.include_vectors)
        async with aclosing(found) as rows:
            async for row in rows:
                entity = from_row(row)
                for one in unread.pop(row["id"]):
                    needed += entity.ByteSize()
                    if needed > room:
                        return needed
                    one.entity.CopyFrom(entity)
        for result in response.results if unread else ():  # deleted since they were found
            there = [one for one in result.hits if one.entity.id not in unread]
            del result.hits[:]
            result.hits.extend(there)
        return needed

    async def _vector_faults(
        self, collection: str, vectors: Sequence[Sequence[float]], size: int, revision: str
    ) -> list[Fault | None]:
        """What is wrong with each vector; the collection may have been replaced since it was last seen."""
        faults: list[Fault | None] = []
        for anew in (False, True):
            shape = await self.store.shape(identity.current().tenant, collection, anew=anew)
            if shape.revision in ("", revision) or not revision:
                faults = await aside(size, vector_faults, vectors, shape)
                if not any(faults):
                    return faults
        check_revision(shape, collection, revision)
        return faults

    async def ReplaceVectors(
        self, request_iterator: AsyncIterator[pb.ReplaceVectorsRequest], context: Any
    ) -> AsyncGenerator[pb.ReplaceVectorsResponse, None]:
        requests = aiter(request_iterator)
        start = (await self._step(requests, "start")).start
        fields = Fields()
        check_name(fields, "start.collection", start.collection)
        check_revision_name(fields, "start.model_revision", start.model_revision, least=1)
        fields.number("start.dimension", start.dimension, 1, 32_768)
        check_analyzer(fields, "start.analyzer", start.analyzer)
        fields.done()
        work = Replacement(
            self.store,
            identity.current().tenant,
            start.collection,
            start.model_revision,
            start.dimension,
            start.analyzer,
        )
        try:
            if await work.begin():
                async with aclosing(work.missing()) as batches:
                    async for batch in batches:
                        yield pb.ReplaceVectorsResponse(batch=pb.ReplaceVectorsBatch(
                            entities=map(from_row, batch), done_count=work.done, total_count=work.total
                        ))  # fmt: skip
                        answer = await self._step(requests, "vectors")
                        found = await self._new_vectors(answer, len(batch), work.shape)
                        await work.put(batch, found, answer.vectors.contexts)
                await work.end()
        finally:
            # Also when the caller left: on a task of its own, with a deadline of its own.
            await asyncio.shield(asyncio.ensure_future(work.leave()))
        info = await self.store.describe(identity.current().tenant, start.collection)
        done = pb.ReplaceVectorsDone(replaced_count=work.taken, entity_count=info.count)
        yield pb.ReplaceVectorsResponse(done=done)

    @staticmethod
    async def _step(requests: AsyncIterator[pb.ReplaceVectorsRequest], wanted: str) -> pb.ReplaceVectorsRequest:
        request = await anext(requests, pb.ReplaceVectorsRequest())
        if request.WhichOneof("step") != wanted:
            raise invalid(wanted, f"is what must come next, not {request.WhichOneof('step') or 'nothing'}")
        return request

    @staticmethod
    async def _new_vectors(request: pb.ReplaceVectorsRequest, wanted: int, shape: Shape) -> list[Sequence[float]]:
        found: list[Sequence[float]] = [vector.values for vector in request.vectors.vectors]
        fields = Fields()
        if len(found) != wanted:
            fields.fault("vectors.vectors", f"has {len(found)} vectors; the batch has {wanted} entities")
        contexts = request.vectors.contexts
        if contexts and len(contexts) != wanted:
            fields.fault("vectors.contexts", f"has {len(contexts)} elements; the batch has {wanted} entities")
        for i, context in enumerate(contexts):
            check_context(fields, f"vectors.contexts[{i}]", context)
        for i, fault in enumerate(await aside(request.ByteSize(), vector_faults, found, shape)):
            if fault is not None:
                fields.fault(f"vectors.vectors[{i}].values{fault[0]}", fault[1])
        fields.done()
        return found

    @staticmethod
    def _named(name: str, field: str = "collection") -> None:
        fields = Fields()
        check_name(fields, field, name)
        fields.done()

    @staticmethod
    def _of_model(request: pb.UpsertRequest | pb.SearchRequest, prefix: str = "") -> None:
        fields = Fields()
        check_name(fields, f"{prefix}collection", request.collection)
        check_revision_name(fields, f"{prefix}model_revision", request.model_revision)
        fields.done()

    @staticmethod
    def _id(fields: Fields, field: str, value: str) -> None:
        if not 1 <= len(value.encode()) <= 256:
            fields.fault(field, f"has {len(value.encode())} bytes; 1 to 256 are allowed")

    def _ids(self, fields: Fields, ids: Sequence[str]) -> None:
        fields.size("ids", ids, least=0, most=1000)
        for i, value in enumerate(ids):
            self._id(fields, f"ids[{i}]", value)
