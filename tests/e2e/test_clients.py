"""The sync and async clients: typed errors, deadlines, cancellation, dicts and messages alike."""

from __future__ import annotations

import asyncio

import pytest
from genmesh import Client
from genmesh.aio import Client as AsyncClient
from genmesh.errors import DeadlineExceeded, InvalidArgument, Unauthenticated, Unavailable
from genmesh.v1 import tokenization_pb2


def test_a_request_is_a_message_or_a_dict(client: Client) -> None:
    as_dict = client.tokenization.Count({"texts": ["a b c"]})
    as_message = client.tokenization.Count(tokenization_pb2.CountRequest(texts=["a b c"]))
    assert as_dict.total == as_message.total
    with pytest.raises(InvalidArgument):
        client.tokenization.Count("a b c")
    with pytest.raises(AttributeError):
        client.tokenization.NoSuchMethod({})


def broken():
    """Requests of which the second is none."""
    yield {"request": {"inputs": ["x"]}}
    yield {"request": {"inputs": ["y\ud800"]}}


def failing():
    yield {"request": {"inputs": ["x"]}}
    raise KeyError("the caller's own")


async def test_what_is_wrong_with_requests_of_a_stream_is_told(client: Client, async_client: AsyncClient) -> None:
    for requests, expected in ((broken, InvalidArgument), (failing, KeyError)):
        with pytest.raises(expected) as failure:
            list(client.embedding.EmbedStream(requests()))
        with pytest.raises(expected):
            async for _ in async_client.embedding.EmbedStream(requests()):
                pass
        if expected is InvalidArgument:
            assert failure.value.field_violations[0].field == "request.inputs[0]"


async def test_the_async_client_does_the_same(async_client: AsyncClient) -> None:
    counts = await asyncio.gather(*(async_client.tokenization.Count({"texts": [f"n {i}"]}) for i in range(20)))
    assert all(c.total for c in counts)
    pieces = [p async for p in async_client.generation.StreamGenerate({"prompt": "The", "sampling": {"max_tokens": 5}})]
    assert pieces[-1].HasField("usage")
    requests = [{"request": {"inputs": ["x"]}}, {"request": {"inputs": ["y", "z"]}}]
    results = [len(r.response.results) async for r in async_client.embedding.EmbedStream(requests)]
    assert results == [1, 2]


async def test_async_errors_are_typed(async_client: AsyncClient, running) -> None:
    with pytest.raises(InvalidArgument) as failure:
        await async_client.tokenization.Count({"texts": []})
    assert failure.value.field_violations[0].field == "texts"
    with pytest.raises(DeadlineExceeded):
        async for _ in async_client.generation.StreamGenerate(
            {"prompt": "The", "sampling": {"max_tokens": 1500, "ignore_eos": True}}, timeout=0.1
        ):
            pass
    async with AsyncClient(running.target, api_key="gm_no") as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.models.ListModels({})


def test_a_gateway_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1", api_key="x") as nowhere, pytest.raises(Unavailable):
        nowhere.models.ListModels({}, timeout=5)
