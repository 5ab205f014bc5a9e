"""Parts of the shared cluster that go away and come back; each test ends when all of it is well again."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from genmesh import Client
from genmesh.errors import Unavailable
from genmesh.v1 import common_pb2

from tests.metrics import scrape
from tests.waiting import until


@contextmanager
def stopped(running, name: str) -> Iterator[None]:
    running.cluster.manager.stopProcess(name, True)
    try:
        yield
    finally:
        running.cluster.manager.startProcess(name, True)
        until(lambda: well(running), 300)


def well(running) -> bool:
    """Whether each part serves, and each sees what it leans on."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{running.cluster.ports['status']}/status.json", timeout=60
        ) as answer:
            parts = json.load(answer)["parts"]
        with running.client() as client:
            models = client.models.ListModels({}).models
    except Unavailable:
        return False
    states = [one["state"] for part in parts for one in (part, *part["dependencies"])]
    return {*states, *running.cluster.status().values()} == {"SERVING", "ready"} and all(
        model.ready for model in models
    )


def failures(running) -> float:
    found = scrape(running.cluster.ports["metrics_embedding"])
    return found["genmesh_embedding_cache_failures_total", 'cache="embedding"']


def test_without_redis_calls_cost_hits_and_never_fail(running, client: Client) -> None:
    text = f"kept {secrets.token_hex(6)}"
    client.embedding.Embed({"inputs": [text]})
    with stopped(running, "redis"):
        before = failures(running)
        for _ in range(20):
            response = client.embedding.Embed({"inputs": [text]}, timeout=60)
            assert response.results[0].HasField("embedding")
            assert response.cache.status == common_pb2.CACHE_STATUS_UNAVAILABLE
            assert client.tokenization.Count({"texts": ["a", "b"]}, timeout=60).total >= 2
        until(lambda: failures(running) > before)

    def hit_again() -> bool:
        return client.embedding.Embed({"inputs": [text]}).cache.status == common_pb2.CACHE_STATUS_HIT

    until(hit_again)


def test_without_milvus_search_says_so_and_recovers(running, client: Client, collection: str) -> None:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 2}})
    client.vector_search.Upsert({"collection": collection, "entities": [{"id": "a", "vector": [1, 0]}]})
    search = {"collection": collection, "vectors": [{"values": [1, 0]}]}
    with stopped(running, "milvus"):
        with pytest.raises(Unavailable) as failure:
            client.vector_search.Search(search, timeout=60)
        assert failure.value.reason == "VECTOR_STORE_UNAVAILABLE"
        assert failure.value.retry_after_seconds
        assert client.embedding.Embed({"inputs": ["others go on"]}).results[0].HasField("embedding")

    def found() -> bool:
        try:
            return client.vector_search.Search(search, timeout=60).results[0].hits[0].entity.id == "a"
        except Unavailable:
            return False

    until(found)


def test_without_triton_models_are_unavailable_and_come_back(running, client: Client) -> None:
    with stopped(running, "triton"):
        with pytest.raises(Unavailable) as failure:
            client.generation.Generate({"prompt": "x"}, timeout=60)
        assert failure.value.reason == "MODEL_UNAVAILABLE"
        model = client.models.GetModel({"name": "generator"}).model
        assert (model.ready, model.not_ready_reason) == (False, "Triton does not answer")
        assert client.tokenization.Count({"texts": ["x"]}).total
    until(lambda: client.models.GetModel({"name": "generator"}).model.ready)
    assert client.generation.Generate({"prompt": "The river", "sampling": {"max_tokens": 4}}).usage.output_tokens
