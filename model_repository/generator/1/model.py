"""Triton model ``generator``: the engine behind the tensors of Triton's vLLM backend."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from engine import Engine, Generation, Piece, logprobs_json
from tensors import error, model_card, value

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.engine = Engine(folder, card)
        self.engine.on_step = self._measure
        gauge, counter = pb_utils.MetricFamily.GAUGE, pb_utils.MetricFamily.COUNTER
        self._metrics = {}
        self._families = []  # a family must outlive its metrics
        for name, kind, description in (
            ("running_requests", gauge, "Requests that hold a slot"),
            ("kv_cache_usage_ratio", gauge, "Share of the KV cache in use, 0 to 1"),
            ("cancelled_requests_total", counter, "Requests dropped because their client went away"),
            ("saved_tokens_total", counter, "Tokens that cancelled requests would still have asked for"),
        ):
            family = pb_utils.MetricFamily(name=f"genmesh_generator_{name}", description=description, kind=kind)
            self._families.append(family)
            self._metrics[name] = family.Metric(labels={"model": args["model_name"]})
        self._seen_cancelled = self._seen_saved = 0

    def _measure(self, engine: Engine) -> None:
        self._metrics["running_requests"].set(len(engine.running))
        self._metrics["kv_cache_usage_ratio"].set(engine.pipeline.get_metrics().cache_usage / 100)
        self._metrics["cancelled_requests_total"].increment(engine.cancelled - self._seen_cancelled)
        self._metrics["saved_tokens_total"].increment(engine.saved_tokens - self._seen_saved)
        self._seen_cancelled, self._seen_saved = engine.cancelled, engine.saved_tokens

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

        self.engine.submit(Generation(prompt, parameters, on_piece, sender.is_cancelled, wanted["logprobs"]))

    def finalize(self) -> None:
        self.engine.close()
