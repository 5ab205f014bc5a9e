"""Calls to Triton: unary inference, decoupled streams that cancel with their consumer, readiness."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.runtime import channels, tracing
from services.runtime.errors import DeadlineExceeded, GenmeshError, Internal, ResourceExhausted, Unavailable
from services.runtime.metrics import Models
from services.runtime.models import Card
from services.runtime.replicas import Replica, Replicas

# Of one replica. tritonclient's own limits, which these options replace; serve.py lets Triton take pings as often.
CHANNEL = [
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    *channels.CONNECTION,
]


# What models say (adapters.py, engine.py, seq2seq.py, drawing.py) and Triton, where there is no room for a request; its reason.
FULL = (
    (re.compile("adapters that fit into memory are in use"), "ADAPTERS_BUSY"),
    (re.compile(r"\w wait (for an adapter )?already|[Ee]xceeds maximum queue size"), "OVERLOADED"),
    (re.compile("does not fit into the KV cache"), "KV_CACHE_EXCEEDED"),
)
# What requests are told whose engine ended (engine.py), and what Triton says of a model whose process did.
ENDED = ("the engine stopped", "is not healthy")
STEP_FAILED = "engine step: "  # costs a batch; several in a row end the engine


def _inputs(tensors: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
    made = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def text_column(texts: Sequence[str]) -> np.ndarray:
    """Texts as a BYTES tensor of shape [n, 1]."""
    return np.array([t.encode() for t in texts], dtype=np.object_).reshape(-1, 1)


def scalar(value: Any, kind: Any = np.object_) -> np.ndarray:
    """One value as a tensor of shape [1]; a string becomes BYTES."""
    return np.array([value.encode() if isinstance(value, str) else value], dtype=kind)


def _error(model: str, failure: InferenceServerException) -> GenmeshError:
    status = str(failure.status() or "")
    words = str(failure.message())
    message = f"model {model}: {words}"
    if reason := _full(failure):
        return ResourceExhausted(message, reason=reason, metadata={"model": model}, retry_after_seconds=1.0)
    if _unreachable(failure) or _lacks(failure):
        return Unavailable(message, reason="MODEL_UNAVAILABLE", metadata={"model": model}, retry_after_seconds=1.0)
    if "DEADLINE_EXCEEDED" in status:
        return DeadlineExceeded(message)
    return Internal(message, reason="MODEL_FAILED", metadata={"model": model})


def _unreachable(failure: InferenceServerException) -> bool:
    """Whether it is the replica that failed, not the request: it does not answer, the model's process has died ("stub"), or
    the model is being loaded or unloaded. What fails within a stream has no status, only words."""
    if _full(failure):
        return False
    return (
        "UNAVAILABLE" in str(failure.status() or "")
        or "is not at ready state" in str(failure.message())
        or _ended(failure)
    )


def _ended(failure: InferenceServerException) -> bool:
    """Whether the model's process has ended, or will."""
    return any(told in str(failure.message()) for told in ENDED)


def _full(failure: InferenceServerException) -> str:
    """Why the replica has no room for the request now, while another may; "" where that is not so."""
    words = str(failure.message())
    return next((reason for pattern, reason in FULL if pattern.search(words)), "")


def _lacks(failure: InferenceServerException) -> bool:
    """Whether the replica has not the version that was asked for."""
    return "NOT_FOUND" in str(failure.status() or "") or (
        "Request for unknown model" in str(failure.message()) and "is not found" in str(failure.message())
    )


def _version(card: Card) -> str:
    """What a replica may lack while an upgrade replaces Triton's pods before or after a service's."""
    return f"{card.name}/{card.version}"


class Triton:
    """One a process, shared by all calls: a client for each replica of Triton."""

    def __init__(self, url: str, metrics: Models) -> None:
        self.metrics = metrics
        self.broken: dict[str, str] = {}  # what is wrong with a model's engine, by its name, until a call goes well

        def told(usable: int, out: int) -> None:
            metrics.replicas.labels("usable").set(usable)
            metrics.replicas.labels("out").set(out)

        self.replicas: Replicas[triton.InferenceServerClient] = Replicas(
            url,
            lambda address: triton.InferenceServerClient(address, channel_args=CHANNEL),
            triton.InferenceServerClient.is_server_ready,
            triton.InferenceServerClient.is_server_live,
            told,
        )

    async def close(self) -> None:
        await self.replicas.close()

    @contextmanager
    def _borrowed(
        self, model: str, key: str, avoid: list[Replica[triton.InferenceServerClient]], what: str = ""
    ) -> Iterator[Any]:
        try:
            with self.replicas.borrow(key, avoid, what) as replica:
                avoid.append(replica)
                yield replica
        except LookupError as failure:
            raise Unavailable(
                f"model {model}: {failure}", reason="MODEL_UNAVAILABLE", metadata={"model": model},
                retry_after_seconds=1.0,
            ) from None  # fmt: skip

    def _answered(self, model: str) -> None:
        self.replicas.answered()
        self.broken.pop(model, None)

    def _note(self, model: str, failure: InferenceServerException) -> None:
        words = str(failure.message())
        if any(told in words for told in (*ENDED, STEP_FAILED)):
            self.broken[model] = words

    def _again(
        self, tried: list[Replica[triton.InferenceServerClient]], failure: InferenceServerException, what: str
    ) -> bool:
        """Whether a request that its replica did not answer, or had no room for, goes to another."""
        if _lacks(failure):
            return self.replicas.without(tried[-1], what, tried)
        if _unreachable(failure):
            self.replicas.lost(tried[-1])
        elif not _full(failure):
            return False
        if not self.replicas.again(tried):
            return False
        self.metrics.retries.inc()
        return True

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
        self, card: Card, tensors: Mapping[str, np.ndarray], timeout: float | None, operation: str, priority: int = 0
    ) -> triton.InferResult:
        """``operation``: as the GenAI conventions call it; ``priority``: 1 goes first, 0 is the model's default.

        One request, one response; MODEL_UNAVAILABLE or MODEL_FAILED where there is none. A replica that does not
        answer is left for another."""
        await self.replicas.ready()
        until = None if timeout is None else time.monotonic() + timeout
        tried: list[Replica[triton.InferenceServerClient]] = []
        inputs = _inputs(tensors)
        with self._measured(card, operation):
            while True:
                try:
                    with self._borrowed(card.name, "", tried, _version(card)) as replica:
                        result = await replica.client.infer(
                            card.name,
                            inputs,
                            model_version=card.version,
                            client_timeout=None if until is None else max(0.001, until - time.monotonic()),
                            headers=tracing.headers() or None,
                            priority=priority,
                        )
                    self._answered(card.name)
                    return result
                except InferenceServerException as failure:
                    self._note(card.name, failure)
                    if not self._again(tried, failure, _version(card)):
                        raise _error(card.name, failure) from None

    async def stream(
        self, card: Card, tensors: Mapping[str, np.ndarray], operation: str, key: str = ""
    ) -> AsyncGenerator[triton.InferResult, None]:
        """The responses of a decoupled model. Leaving the iteration cancels the request inside Triton.

        ``key``: what requests have in common that one replica should see, such as a conversation's beginning. A
        replica that is lost before its first response is left for another."""
        await self.replicas.ready()
        model = card.name
        tried: list[Replica[triton.InferenceServerClient]] = []
        begun = False
        request = {
            "model_name": model,
            "model_version": card.version,
            "inputs": _inputs(tensors),
            "enable_empty_final_response": True,
        }
        with self._measured(card, operation):
            while True:
                try:
                    with self._borrowed(model, key, tried, _version(card)) as replica:
                        async with aclosing(self._responses(replica.client, model, request)) as responses:
                            async for response in responses:
                                begun = True
                                yield response
                    self._answered(model)
                    return
                except InferenceServerException as failure:
                    self._note(model, failure)
                    if begun and _unreachable(failure):
                        self.replicas.lost(tried[-1])
                    if begun or not self._again(tried, failure, _version(card)):
                        raise _error(model, failure) from None

    @staticmethod
    async def _responses(
        client: triton.InferenceServerClient, model: str, request: dict[str, Any]
    ) -> AsyncGenerator[triton.InferResult, None]:
        """One replica's responses; InferenceServerException where it fails or breaks off."""

        async def one() -> AsyncGenerator[dict[str, Any], None]:
            yield request

        responses = client.stream_infer(one(), headers=tracing.headers() or None)
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
                raise broken
            if not over:
                raise InferenceServerException("the stream broke off", str(grpc.StatusCode.UNAVAILABLE))
        except grpc.aio.AioRpcError as failure:  # the client library lets a stream's own status through
            raise InferenceServerException(failure.details(), str(failure.code())) from None
        finally:
            responses.cancel()

    async def ready(self, card: Card) -> None:
        """Raise unless some replica answers requests to this version of the model."""
        await self.replicas.ready()
        tried: list[Replica[triton.InferenceServerClient]] = []
        while True:
            with self._borrowed(card.name, "", tried, _version(card)) as replica:
                if await replica.client.is_model_ready(card.name, card.version, client_timeout=2):
                    replica.lacks.pop(_version(card), None)
                    return
            if not self.replicas.without(replica, _version(card), tried):
                raise RuntimeError(f"Triton says that version {card.version} of {card.name} is not ready")

    async def index(self) -> tuple[dict[tuple[str, str], list[str]], int]:
        """For each model and version that some replica knows why it is not ready, replica by replica: "" where it is. And how
        many replicas were asked. MODEL_UNAVAILABLE where none answers."""
        await self.replicas.ready()
        asked = list(self.replicas.known.values())

        async def of(replica: Replica[triton.InferenceServerClient]) -> Any:
            return await replica.client.get_model_repository_index(client_timeout=2)

        answers = await asyncio.gather(*(of(replica) for replica in asked), return_exceptions=True)
        there = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not there:
            raise _error("*", InferenceServerException("no replica answers", str(grpc.StatusCode.UNAVAILABLE)))
        found: dict[tuple[str, str], list[str]] = {}
        for answer in there:
            for m in answer.models:
                reason = "" if m.state == "READY" else m.reason or "Triton is loading it"
                found.setdefault((m.name, m.version), []).append(reason)
        silent = ["Triton does not answer"] * (len(asked) - len(there))
        return {key: reasons + silent for key, reasons in found.items()}, len(asked)
