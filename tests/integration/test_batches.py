"""Requests that Triton works on together: a wrong one fails alone, and nothing is computed for clients that left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.figures import Figure

LONG = b"of the river and the mill " * 40


@pytest.fixture
def served(running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{running.cluster.ports['triton']}") as found:
        yield found


def embed(texts: Sequence[bytes]) -> tuple[str, list[triton.InferInput]]:
    return "embedder", [tensor("text", texts)]


def rerank(passages: Sequence[bytes]) -> tuple[str, list[triton.InferInput]]:
    return "reranker", [tensor("query", [b"where is the mill?"] * len(passages)), tensor("passage", passages)]


def tensor(name: str, rows: Sequence[bytes]) -> triton.InferInput:
    found = triton.InferInput(name, [len(rows), 1], "BYTES")
    found.set_data_from_numpy(np.array(rows, dtype=np.object_)[:, None])
    return found


@pytest.mark.parametrize("request_of", [embed, rerank])
def test_a_text_that_is_none_fails_alone(served: triton.InferenceServerClient, request_of: Callable[..., Any]) -> None:
    ended: dict[int, tuple[Any, Any]] = {}
    all_ended = threading.Semaphore(0)

    def keep(number: int) -> Callable[[Any, Any], None]:
        def told(result: Any, error: Any) -> None:
            ended[number] = result, error
            all_ended.release()

        return told

    # The first keeps the model busy, so that the others wait for it and are worked on together.
    wrong = b"\xff\xfe"
    for number, texts in enumerate(([LONG] * 40, [b"fine"], [b"fine", wrong], [b"good"])):
        served.async_infer(*request_of(texts), callback=keep(number))
    for _ in range(4):
        assert all_ended.acquire(timeout=300)
    assert "can't decode byte 0xff" in str(ended.pop(2)[1])
    assert [error for _, error in ended.values()] == [None] * 3


@pytest.mark.nightly
@pytest.mark.parametrize("request_of", [embed, rerank])
def test_a_client_that_leaves_leaves_the_model_to_others(
    served: triton.InferenceServerClient, request_of: Callable[..., Any], figure: Figure
) -> None:
    many = [b"%d " % number + LONG for number in range(300)]

    def seconds(texts: Sequence[bytes]) -> float:
        begun = time.monotonic()
        served.infer(*request_of(texts))
        return time.monotonic() - begun

    whole = seconds(many)
    call = served.async_infer(*request_of(many), callback=lambda result, error: None)
    time.sleep(0.3)
    call.cancel()
    after = seconds([b"short"])
    model = request_of(many)[0]
    figure(f"{model}: 300 long texts", whole, "s")
    figure(f"{model}: a short text when the client of 300 long ones has left", after, "s")
    assert after < whole / 2
