"""EmbeddingService against Triton's embedder and reranker, and its cache in Redis."""

from __future__ import annotations

import math
import secrets

import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument, NotFound
from genmesh.v1 import common_pb2


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def vectors(client: Client, texts: list[str]) -> list[list[float]]:
    response = client.embedding.Embed({"inputs": texts})
    return [list(r.embedding.values) for r in response.results]


def test_vectors_have_length_one_and_carry_meaning(client: Client) -> None:
    cat, kitten, tax = vectors(
        client, ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Tax law changed in 2019."]
    )
    assert len(cat) == 384
    assert math.isclose(cosine(cat, cat), 1, abs_tol=1e-3)
    assert cosine(cat, kitten) > cosine(cat, tax) + 0.3


def test_a_text_has_the_same_vector_alone_and_in_a_batch(client: Client) -> None:
    text = f"one of many {secrets.token_hex(4)}"
    alone = vectors(client, [text])[0]
    # Another case of the same word tokenizes alike but is another cache key, so it is computed anew.
    batch = vectors(client, [text.upper(), *(f"other text number {i} " * (i + 1) for i in range(40))])
    # Another shape rounds differently; a row of another text is far away.
    assert max(range(len(batch)), key=lambda row: cosine(alone, batch[row])) == 0
    assert cosine(alone, batch[0]) > 0.99


def test_a_bad_input_fails_alone(client: Client) -> None:
    response = client.embedding.Embed({"inputs": ["good", "", "   ", "x" * 100_001, "good too"]})
    outcomes = [r.WhichOneof("outcome") for r in response.results]
    assert outcomes == ["embedding", "error", "error", "error", "embedding"]
    assert [r.error.reason for r in response.results[1:4]] == ["INPUT_EMPTY", "INPUT_BLANK", "INPUT_TOO_LONG"]


def test_an_overlong_input_is_cut_or_rejected(client: Client) -> None:
    text = "word " * 1000
    results = client.embedding.Embed({"inputs": [text, "word"]}).results
    assert [result.embedding.truncated for result in results] == [True, False]
    assert client.embedding.Embed({"inputs": [text]}).results[0].embedding.truncated  # from the cache too
    rejected = client.embedding.Embed({"inputs": [text], "reject_overlong": True})
    assert rejected.results[0].error.reason == "INPUT_TOO_LONG"


def test_the_cache_says_what_it_did(client: Client) -> None:
    old, new = (f"a text {secrets.token_hex(8)}" for _ in range(2))
    first = client.embedding.Embed({"inputs": [old]})
    again = client.embedding.Embed({"inputs": [old]})
    mixed = client.embedding.Embed({"inputs": [old, new]})
    assert (first.cache.status, again.cache.status) == (common_pb2.CACHE_STATUS_MISS, common_pb2.CACHE_STATUS_HIT)
    assert again.results[0].embedding == first.results[0].embedding
    assert (mixed.cache.status, mixed.cache.hits, mixed.cache.misses) == (common_pb2.CACHE_STATUS_PARTIAL, 1, 1)
    assert first.usage.input_tokens > 0
    assert again.usage.input_tokens == 0


def test_the_cache_never_leaks_between_tenants(running, client: Client) -> None:
    text = f"a secret of alpha {secrets.token_hex(8)}"
    client.embedding.Embed({"inputs": [text]})
    with running.client(running.beta) as other:
        assert other.embedding.Embed({"inputs": [text]}).cache.status == common_pb2.CACHE_STATUS_MISS


def test_what_nobody_waits_for_is_not_kept(client: Client) -> None:
    texts = [f"{secrets.token_hex(8)} {i}" for i in range(130)]
    bulk = client.embedding.Embed({"inputs": [*texts, ""], "bulk": True})
    assert bulk.cache == common_pb2.CacheInfo()
    assert bulk.results[-1].error.reason == "INPUT_EMPTY"
    assert bulk.usage.input_tokens > 0
    again = client.embedding.Embed({"inputs": texts})
    assert (again.cache.status, again.cache.misses) == (common_pb2.CACHE_STATUS_MISS, 130)
    for one, other in zip(bulk.results, again.results, strict=False):
        assert (
            cosine(list(other.embedding.values), list(one.embedding.values)) > 0.99
        )  # 8 bits differ by what a batch holds


def test_a_stream_answers_in_order(client: Client) -> None:
    requests = [{"correlation_id": f"r{i}", "request": {"inputs": [f"text {i}"] * (i + 1)}} for i in range(5)]
    responses = list(client.embedding.EmbedStream(iter(requests)))
    assert [r.correlation_id for r in responses] == [f"r{i}" for i in range(5)]
    assert [len(r.response.results) for r in responses] == [1, 2, 3, 4, 5]


def test_rerank_puts_the_answer_first(client: Client) -> None:
    passages = [
        "The library opens at nine in the morning.",
        "Bread is baked with flour, water and yeast.",
        "The swimming pool is closed on Mondays for cleaning.",
    ]
    response = client.embedding.Rerank({"query": "When is the pool closed?", "passages": passages, "top_n": 2})
    assert len(response.passages) == 2
    assert response.passages[0].index == 2
    assert response.passages[0].score > response.passages[1].score
    assert not response.query_truncated


@pytest.mark.parametrize(("words", "cut"), [(1, False), (200, False), (254, False), (255, True), (1900, True)])
def test_rerank_tells_what_it_did_not_read(client: Client, words: int, cut: bool) -> None:
    response = client.embedding.Rerank({"query": "what " * words, "passages": ["a", "what " * words, "b " * 100]})
    assert response.query_truncated is cut
    assert {p.index: p.truncated for p in response.passages} == {0: False, 1: cut, 2: False}


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Embed", {"inputs": []}, "inputs"),
        ("Embed", {"inputs": ["x"] * 1025}, "inputs"),
        ("Rerank", {"query": "", "passages": ["x"]}, "query"),
        ("Rerank", {"query": "x", "passages": []}, "passages"),
        ("Rerank", {"query": "x", "passages": ["ok", ""]}, "passages[1]"),
        ("Rerank", {"query": "x", "passages": ["ok"], "top_n": -1}, "top_n"),
    ],
)
def test_bad_input_names_its_field(client: Client, method: str, request_: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        getattr(client.embedding, method)(request_)
    assert field in [v.field for v in failure.value.field_violations]


@pytest.mark.parametrize("model", ["nobody", "generator"])
def test_an_unknown_model_is_not_found(client: Client, model: str) -> None:
    with pytest.raises(NotFound) as failure:
        client.embedding.Embed({"model": model, "inputs": ["x"]})
    assert failure.value.reason == "MODEL_NOT_FOUND"
