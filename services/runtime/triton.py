"""Calls to Triton: unary inference, decoupled streams that cancel with their consumer, readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.runtime import tracing
from services.runtime.channels import BALANCED
from services.runtime.errors import DeadlineExceeded, GenmeshError, Internal, Unavailable
from services.runtime.metrics import Models
from services.runtime.models import Card

# Balanced over the replicas; tritonclient's own limits, which these options replace.
CHANNEL = [
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.service_config", BALANCED),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def _inputs(tensors: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
    made = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def text_column(texts: list[str]) -> np.ndarray:
    """Texts as a BYTES tensor of shape [n, 1]."""
    return np.array([t.encode() for t in texts], dtype=np.object_).reshape(-1, 1)


def scalar(value: Any, kind: Any = np.object_) -> np.ndarray:
    """One value as a tensor of shape [1]; a string becomes BYTES."""
    return np.array([value.encode() if isinstance(value, str) else value], dtype=kind)


def _error(model: str, failure: InferenceServerException) -> GenmeshError:
    status = str(failure.status() or "")
    message = f"model {model}: {failure.message()}"
    if "UNAVAILABLE" in status or "NOT_FOUND" in status:
        return Unavailable(message, reason="MODEL_UNAVAILABLE", metadata={"model": model}, retry_after_seconds=1.0)
    if "DEADLINE_EXCEEDED" in status:
        return DeadlineExceeded(message)
    return Internal(message, reason="MODEL_FAILED", metadata={"model": model})


class Triton:
    """One client a process; its channel is shared by all calls."""

    def __init__(self, url: str, metrics: Models) -> None:
        self._client, self.metrics = triton.InferenceServerClient(url, channel_args=CHANNEL), metrics

    async def close(self) -> None:
        await self._client.close()

    @contextmanager
    def _measured(self, card: Card, operation: str) -> Iterator[None]:
        model, begun, outcome = card.name, time.monotonic(), "error"
        facts: dict[str, tracing.Value] = {
            tracing.gen_ai.GEN_AI_OPERATION_NAME: operation,
            tracing.gen_ai.GEN_AI_PROVIDER_NAME: "genmesh",
            tracing.gen_ai.GEN_AI_REQUEST_MODEL: model,
            tracing.gen_ai.GEN_AI_RESPONSE_MODEL: card.revision,
        }
        try:
            with tracing.span(f"{operation} {model}", tracing.SpanKind.CLIENT, facts):
                yield
            outcome = "ok"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.duration.labels(model).observe(time.monotonic() - begun)
            self.metrics.requests.labels(model, outcome).inc()

    async def infer(
        self, card: Card, tensors: Mapping[str, np.ndarray], timeout: float | None, operation: str
    ) -> triton.InferResult:
        """``operation``: as the GenAI conventions call it.

        One request, one response; MODEL_UNAVAILABLE or MODEL_FAILED where there is none."""
        with self._measured(card, operation):
            try:
                return await self._client.infer(
                    card.name,
                    _inputs(tensors),
                    model_version=card.version,
                    client_timeout=timeout,
                    headers=tracing.headers() or None,
                )
            except InferenceServerException as failure:
                raise _error(card.name, failure) from None

    async def stream(
        self, card: Card, tensors: Mapping[str, np.ndarray], operation: str
    ) -> AsyncGenerator[triton.InferResult, None]:
        """The responses of a decoupled model. Leaving the iteration cancels the request inside Triton."""
        model = card.name
        request = {
            "model_name": model,
            "model_version": card.version,
            "inputs": _inputs(tensors),
            "enable_empty_final_response": True,
        }

        async def one() -> AsyncGenerator[dict[str, Any], None]:
            yield request

        with self._measured(card, operation):
            responses = self._client.stream_infer(one(), headers=tracing.headers() or None)
            over, broken = False, None
            try:
                # To the end of the call, also past the last response: Triton never unloads the model of a call that is
                # cancelled between the two.
                async for result, failure in responses:
                    broken = broken or failure
                    if failure is None:
                        response = result.get_response()
                        if response.outputs:
                            yield result
                        over = over or response.parameters["triton_final_response"].bool_param
                if broken is not None:
                    raise _error(model, broken)
                if not over:
                    raise Unavailable(
                        f"model {model}: the stream broke off", reason="MODEL_UNAVAILABLE", metadata={"model": model}
                    )
            except InferenceServerException as failure:
                raise _error(model, failure) from None
            except grpc.aio.AioRpcError as failure:  # the client library lets a stream's own status through
                raise _error(model, InferenceServerException(failure.details(), str(failure.code()))) from None
            finally:
                responses.cancel()

    async def ready(self, model: str) -> None:
        """Raise unless the model answers requests."""
        if not await self._client.is_model_ready(model, client_timeout=2):
            raise RuntimeError(f"Triton says that {model} is not ready")

    async def index(self) -> dict[tuple[str, str], tuple[bool, str]]:
        """For each model and version of the repository whether it is ready, and why not."""
        try:
            answer = await self._client.get_model_repository_index(client_timeout=2)
        except InferenceServerException as failure:
            raise _error("*", failure) from None
        return {(m.name, m.version): (m.state == "READY", m.reason) for m in answer.models}
