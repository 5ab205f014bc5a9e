"""What requests that wait for a slot cost those that have one."""

from __future__ import annotations

import json
import statistics
import threading
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.conftest import MODELS
from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import until

CARD = json.loads((MODELS / "generator" / "model.json").read_text())
SLOTS, WAITING = CARD["max_sequences"], CARD["max_waiting"]


class Streams:
    """Requests to Triton's generator over one gRPC stream: when how many tokens came."""

    def __init__(self, port: int) -> None:
        self.client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        self.came: list[tuple[float, int]] = []
        self.ended, self.errors = 0, []  # type: ignore[var-annotated]
        self.begun: set[str] = set()
        self.lock = threading.Lock()
        self.client.start_stream(self._told)

    def _told(self, result: Any, error: Any) -> None:
        with self.lock:
            if error is not None:
                self.errors.append(str(error))
                return
            self.begun.add(result.get_response().id)
            self.came.append((time.monotonic(), int(result.as_numpy("num_output_tokens")[0])))
            self.ended += bool(result.as_numpy("finish_reason")[0])

    def ask(self, count: int, tokens: int) -> None:
        sampling = json.dumps({"max_tokens": tokens, "ignore_eos": True})
        given = {"text_input": "The river", "sampling_parameters": sampling, "stream": True,
                 "return_finish_reason": True, "return_num_output_tokens": True}  # fmt: skip
        tensors = []
        for name, value in given.items():
            kind = np.bool_ if isinstance(value, bool) else np.object_
            data = np.array([value.encode() if isinstance(value, str) else value], dtype=kind)
            tensors.append(triton.InferInput(name, [1], "BOOL" if kind is np.bool_ else "BYTES"))
            tensors[-1].set_data_from_numpy(data)
        for number in range(count):
            self.client.async_stream_infer("generator", tensors, request_id=f"{tokens}-{number}")

    def rate(self, begun: float, ended: float) -> float:
        return sum(tokens for at, tokens in self.came if begun < at <= ended) / (ended - begun)


@pytest.mark.nightly
def test_requests_that_wait_slow_nothing(running, figure: Figure) -> None:
    port = running.cluster.ports["triton"]

    def waiting() -> float:
        return scrape(running.cluster.ports["triton_metrics"])[
            "genmesh_generator_waiting_requests", 'model="generator"'
        ]

    def rate(queued: int) -> float:
        """Tokens per second of requests that hold all slots, while others wait."""
        streams = Streams(port)
        streams.ask(SLOTS, 400)
        until(lambda: len(streams.begun) == SLOTS)
        others = Streams(port)
        others.ask(queued, 5)
        until(lambda: waiting() == queued)
        begun = time.monotonic()
        until(lambda: streams.ended > 0)
        found = streams.rate(begun, time.monotonic())
        assert not streams.errors
        others.client.stop_stream(cancel_requests=True)
        streams.client.stop_stream(cancel_requests=True)
        until(lambda: waiting() == 0)
        return found

    rounds = [(rate(0), rate(WAITING)) for _ in range(5)]
    alone = statistics.median(first for first, _ in rounds)
    share = statistics.median(second / first for first, second in rounds)
    figure(f"generator: {SLOTS} streams", alone, "tokens/s")
    figure(f"generator: their rate while {WAITING} requests wait", 100 * share, "%")
    assert share > 0.5
