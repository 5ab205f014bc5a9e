"""Triton model ``generator``: the engines behind the tensors of Triton's vLLM backend.

As there, ``lora_name`` among the sampling parameters chooses an adapter.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from adapters import Engines
from engine import Generation, Piece, logprobs_json
from measured import Measured
from tensors import error, model_card, value

# How long a model that is unloaded goes on with the requests that it has.
DRAIN_SECONDS = 300
# Between two looks at what runs: each of them costs messages to Triton's process.
MEASURE_SECONDS = 0.1
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.engines = Engines(folder, card, folder.parents[1] / "adapters")
        self.engines.on_step = self._measure
        self.measured = Measured("generator", args)
        self._measuring = threading.Lock()
        self._told_running, self._measure_after = -1, 0.0

    def _measure(self) -> None:
        """After each step: tell Triton now and then, and at once when another number of requests runs or none."""
        engines, now = self.engines, time.monotonic()
        with self._measuring:
            running = engines.running
            if running and running == self._told_running and now < self._measure_after:
                return
            self._told_running, self._measure_after = running, now + MEASURE_SECONDS
            self.measured.set("last_step_timestamp_seconds", engines.stepped)
            self.measured.set("running_requests", running)
            self.measured.set("waiting_requests", engines.waiting)
            self.measured.set("loaded_adapters", len(engines.loaded))
            self.measured.set("kv_cache_usage_ratio", engines.cache_usage)
            for name, total in engines.totals.items():
                self.measured.reached(name, total)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._start(request, sender)
            except Exception as failure:  # a bad request ends alone
                sender.send(error(f"generator: {failure}"), flags=FINAL)

    def _start(self, request: Any, sender: Any) -> None:
        streamed = bool(value(request, "stream", False))
        wanted = {name: bool(value(request, f"return_{name}", False)) for name in
                  ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")}  # fmt: skip
        parameters = json.loads(value(request, "sampling_parameters", "{}"))
        prompt = value(request, "text_input")
        # vLLM's backend repeats the prompt unless told otherwise; streams never do.
        collected: list[Piece] = []
        lead = "" if streamed or value(request, "exclude_input_in_output", False) else prompt

        def on_piece(generation: Generation, piece: Piece) -> None:
            if piece.error is not None:
                sender.send(error(f"generator: {piece.error}"), flags=FINAL)
                return
            if not streamed:
                collected.append(piece)
                if piece.finish_reason is None:
                    return
                piece = Piece(
                    lead + "".join(p.text for p in collected), sum(p.tokens for p in collected), piece.finish_reason,
                    logprobs=[entry for p in collected for entry in p.logprobs],
                )  # fmt: skip
            tensors = [pb_utils.Tensor("text_output", np.array([piece.text.encode()], dtype=np.object_))]
            if wanted["finish_reason"]:
                tensors.append(
                    pb_utils.Tensor("finish_reason", np.array([(piece.finish_reason or "").encode()], dtype=np.object_))
                )
            if wanted["cumulative_logprob"]:
                tensors.append(
                    pb_utils.Tensor("cumulative_logprob", np.array([generation.cumulative_logprob], dtype=np.float32))
                )
            if wanted["logprobs"]:
                tensors.append(pb_utils.Tensor("logprobs", np.array([logprobs_json(piece).encode()], dtype=np.object_)))
            if wanted["num_input_tokens"]:
                tensors.append(
                    pb_utils.Tensor("num_input_tokens", np.array([generation.input_tokens], dtype=np.uint32))
                )
            if wanted["num_output_tokens"]:
                tensors.append(pb_utils.Tensor("num_output_tokens", np.array([piece.tokens], dtype=np.uint32)))
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if piece.finish_reason else 0)

        adapter = str(parameters.pop("lora_name", "") or "")
        generation = Generation(prompt, parameters, on_piece, sender.is_cancelled, wanted["logprobs"])
        self.engines.submit(generation, adapter)
        try:
            self._measure()  # also an engine that makes no step has what waits counted
        except Exception:  # the request runs: what ends it now is its engine
            traceback.print_exc()

    def finalize(self) -> None:
        self.engines.drain(DRAIN_SECONDS)
