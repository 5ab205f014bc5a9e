"""Calls that are made at the same time go out as one, and each gets what it would have got alone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from genmesh.v1 import embedding_pb2, vector_search_pb2

from services.rag.merging import MOST_TEXTS, MergingUpstream

Entity = vector_search_pb2.Entity


def refusal(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "no")


class Services:
    """Vector search and embedding, with one call on its way at a time. ``refuses``: an id or text, and how it is refused."""

    def __init__(
        self, refuses: str = "", code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT, page: int = 1000
    ) -> None:
        self.rows: dict[str, Entity] = {}
        self.calls: list[tuple[str, int]] = []
        self.refuses, self.code, self.page = refuses, code, page
        self.tokenization = None
        self.vectors = SimpleNamespace(Upsert=self.upsert, Get=self.get, Delete=self.delete)
        self.embedding = SimpleNamespace(Embed=self.embed)

    async def _called(self, name: str, parts: list[str]) -> None:
        self.calls.append((name, len(parts)))
        await asyncio.sleep(0.01)
        if self.refuses in parts:
            raise refusal(self.code)

    async def upsert(self, request: Any, **_: Any) -> Any:
        await self._called("upsert", [one.id for one in request.entities])
        self.rows |= {one.id: one for one in request.entities}
        return vector_search_pb2.UpsertResponse(upserted_count=len(request.entities))

    async def get(self, request: Any, **_: Any) -> Any:
        prefixes = tuple(request.id_prefixes) or (request.id_prefix,)
        await self._called("get", list(request.ids or prefixes))
        if request.ids:
            return vector_search_pb2.GetResponse(entities=[self.rows[one] for one in request.ids if one in self.rows])
        found = sorted(one for one in self.rows if one.startswith(prefixes) and one > request.page_token)
        entities = [self.rows[one] for one in found[: self.page]]
        token = found[self.page - 1] if len(found) > self.page else ""
        return vector_search_pb2.GetResponse(entities=entities, next_page_token=token)

    async def delete(self, request: Any, **_: Any) -> Any:
        await self._called("delete", list(request.ids))
        for one in request.ids:
            self.rows.pop(one, None)
        return vector_search_pb2.DeleteResponse(deleted_count=len(request.ids))

    async def embed(self, request: Any, **_: Any) -> Any:
        await self._called("embed", list(request.inputs))
        response = embedding_pb2.EmbedResponse(model_revision="m@1", dimension=1)
        for text in request.inputs:
            response.results.add(embedding={"values": [len(text)]})
        return response


def put(name: str, collection: str = "c", revision: str = "m@1") -> vector_search_pb2.UpsertRequest:
    return vector_search_pb2.UpsertRequest(collection=collection, model_revision=revision, entities=[{"id": name}])


def get(*ids: str, **fields: Any) -> vector_search_pb2.GetRequest:
    return vector_search_pb2.GetRequest(collection="c", ids=ids, **fields)


async def test_calls_that_come_meanwhile_go_out_together() -> None:
    services = Services()
    calls = MergingUpstream(services)
    first = asyncio.create_task(calls.vectors.Upsert(put("a")))
    await asyncio.sleep(0.005)
    answers = await asyncio.gather(first, *(calls.vectors.Upsert(put(name)) for name in "bcde"))
    assert services.calls == [("upsert", 1), ("upsert", 4)]
    assert [one.upserted_count for one in answers] == [1] * 5
    assert sorted(services.rows) == list("abcde")
    await asyncio.gather(
        *(calls.vectors.Delete(vector_search_pb2.DeleteRequest(collection="c", ids=[n])) for n in "abc")
    )
    assert services.calls[2:] == [("delete", 3)]
    assert sorted(services.rows) == ["d", "e"]


async def test_only_calls_of_a_kind_are_merged() -> None:
    services = Services()
    vectors = MergingUpstream(services).vectors
    services.rows = {name: Entity(id=name) for name in "ab"}
    await asyncio.gather(
        vectors.Upsert(put("x")), vectors.Upsert(put("x", "other")), vectors.Upsert(put("y", revision="m@2")),
        vectors.Get(get("a")), vectors.Get(get(id_prefix="b")), vectors.Get(get(id_prefix="b", filter="n > 1")),
        vectors.Get(get("a", include_vectors=True)),
    )  # fmt: skip
    assert len(services.calls) == 7


async def test_each_gets_its_own_entities() -> None:
    services = Services()
    services.rows = {name: Entity(id=name) for name in ("a#1", "a#2", "b#1", "c#1", "c#1#1")}
    vectors = MergingUpstream(services).vectors
    found = await asyncio.gather(
        vectors.Get(get("c#1", "a#1")), vectors.Get(get("b#9")), vectors.Get(get("a#1", "b#1"))
    )
    assert [[one.id for one in answer.entities] for answer in found] == [["c#1", "a#1"], [], ["a#1", "b#1"]]
    found = await asyncio.gather(*(vectors.Get(get(id_prefix=p, page_size=9)) for p in ("a#", "b#9", "c#1#", "c#")))
    assert [[one.id for one in answer.entities] for answer in found] == [
        ["a#1", "a#2"],
        [],
        ["c#1#1"],
        ["c#1", "c#1#1"],
    ]
    assert len(services.calls) == 2


@pytest.mark.parametrize("page", range(1, 7))
async def test_prefixes_that_a_page_does_not_cover_are_asked_for_alone(page: int) -> None:
    services = Services(page=page)
    services.rows = {name: Entity(id=name) for name in ("a#1", "a#2", "b#1", "c#1", "c#2", "d#")}
    vectors = MergingUpstream(services).vectors

    async def every(prefix: str) -> list[str]:
        found, request = list[str](), get(id_prefix=prefix, page_size=page)
        while True:
            answer = await vectors.Get(request)
            found += [one.id for one in answer.entities]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    found = await asyncio.gather(*map(every, ("a#", "b#", "bb#", "c#", "d#", "e#")))
    assert found == [["a#1", "a#2"], ["b#1"], [], ["c#1", "c#2"], ["d#"], []]


async def test_texts_are_embedded_together_and_vectors_are_given_back() -> None:
    services = Services()
    embedding = MergingUpstream(services).embedding
    texts = [["a" * (i + j + 1) for j in range(i % 5 + 1)] for i in range(90)]
    answers = await asyncio.gather(
        *(embedding.Embed(embedding_pb2.EmbedRequest(inputs=one, bulk=True)) for one in texts)
    )
    assert [[int(r.embedding.values[0]) for r in one.results] for one in answers] == [list(map(len, t)) for t in texts]
    assert {(one.model_revision, one.dimension) for one in answers} == {("m@1", 1)}
    assert max(count for _, count in services.calls) <= MOST_TEXTS
    assert len(services.calls) < 6


async def test_the_fault_of_one_is_not_that_of_others() -> None:
    services = Services(refuses="b")
    vectors = MergingUpstream(services).vectors
    answers = await asyncio.gather(*(vectors.Upsert(put(name)) for name in "abc"), return_exceptions=True)
    assert [isinstance(one, grpc.aio.AioRpcError) for one in answers] == [False, True, False]
    assert sorted(services.rows) == ["a", "c"]
    assert [count for _, count in services.calls] == [3, 1, 1, 1]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_failure_of_all_is_not_repeated_for_each(code: grpc.StatusCode) -> None:
    services = Services(refuses="b", code=code)
    vectors = MergingUpstream(services).vectors
    answers = await asyncio.gather(*(vectors.Upsert(put(name)) for name in "abc"), return_exceptions=True)
    assert [one.code() for one in answers] == [code] * 3
    assert services.calls == [("upsert", 3)]


async def test_no_call_is_left_behind() -> None:
    services = Services()
    calls = MergingUpstream(services)

    async def chain(name: str, seconds: float) -> None:
        for _ in range(50):
            await calls.embedding.Embed(embedding_pb2.EmbedRequest(inputs=[name]))
            await asyncio.sleep(seconds)

    async def immediately(request: Any, **_: Any) -> Any:
        return embedding_pb2.EmbedResponse(results=[{} for _ in request.inputs])

    calls.embedding.Embed.method = immediately
    async with asyncio.timeout(10):
        await asyncio.gather(*(chain(str(n), 0.0001 * (n % 3)) for n in range(20)))


async def test_who_left_is_not_asked_for() -> None:
    services = Services()
    calls = MergingUpstream(services)
    tasks = [asyncio.create_task(calls.vectors.Upsert(put(name))) for name in "abc"]
    await asyncio.sleep(0.005)
    late = [asyncio.create_task(calls.vectors.Upsert(put(name))) for name in "xyz"]
    await asyncio.sleep(0)
    late[1].cancel()
    await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert sorted(services.rows) == list("abcxz")


async def test_closed_it_answers_nobody() -> None:
    calls = MergingUpstream(Services())
    tasks = [asyncio.create_task(calls.vectors.Upsert(put(name))) for name in "abc"]
    await asyncio.sleep(0.005)
    calls.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in found)
    assert len(asyncio.all_tasks()) == 1
