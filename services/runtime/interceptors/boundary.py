"""The one interceptor between the wire and a servicer.

In order: decode the message (a broken one names its field), refuse a passed deadline or a full
server, find the caller, run the method under a deadline, turn errors into statuses, and measure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from services.runtime import identity
from services.runtime.errors import (
    DeadlineExceeded,
    GenmeshError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Violation,
    clipped,
    trailing,
)
from services.runtime.metrics import ServerMetrics
from services.runtime.settings import ServiceSettings
from services.runtime.wire import broken_utf8

log = logging.getLogger(__name__)
# Calls that anyone may make: health and reflection.
OPEN = ("grpc.health.", "grpc.reflection.")


@dataclass(frozen=True)
class Undecodable:
    """A request message that is no message; why."""

    error: GenmeshError


def decoder(kind: type[Message], limit: int) -> Callable[[bytes], Any]:
    """A deserializer that never fails: what it cannot decode becomes an Undecodable."""

    def decode(data: bytes) -> Any:
        if len(data) > limit:
            text = f"the message has {len(data)} bytes; at most {limit} are allowed"
            return Undecodable(
                ResourceExhausted(text, reason="MESSAGE_TOO_LARGE", metadata={"limit_bytes": str(limit)})
            )
        try:
            return kind.FromString(data)
        except DecodeError:
            field = broken_utf8(data, kind.DESCRIPTOR)  # type: ignore[arg-type]
            if field is None:
                return Undecodable(
                    InvalidArgument("the message is not a " + kind.DESCRIPTOR.full_name, reason="MALFORMED_MESSAGE")
                )
            text = "is not valid UTF-8"
            return Undecodable(
                InvalidArgument(f"{field}: {text}", reason="INVALID_UTF8", violations=[Violation(field, text)])
            )

    return decode


def content_marks(kind: type[Message]) -> Callable[[Any], bool]:
    """Whether a streamed message has content: by convention its field 1 (see the protos)."""
    field = kind.DESCRIPTOR.fields_by_number.get(1)
    if field is None:
        return lambda message: False
    name = field.name
    if field.has_presence:
        return lambda message: bool(message.HasField(name))
    return lambda message: bool(getattr(message, name))


class Boundary(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """See the module's text."""

    def __init__(self, settings: ServiceSettings, metrics: ServerMetrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.secret = settings.identity_secret.get_secret_value().encode()
        self.running = 0

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.lstrip("/").startswith(OPEN):
            return handler
        service, name = details.method.lstrip("/").split("/")
        method = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
        decode = decoder(message_factory.GetMessageClass(method.input_type), self.settings.max_message_bytes)
        if handler.response_streaming:
            marks = content_marks(message_factory.GetMessageClass(method.output_type))
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            behaviour = self._stream(name, inner, marks)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = self._unary(name, handler.unary_unary)
            make = grpc.unary_unary_rpc_method_handler
        return make(behaviour, request_deserializer=decode, response_serializer=handler.response_serializer)

    def _enter(self, request: Any, context: Any) -> float:
        """Admit a call; the seconds it may take."""
        remaining = context.time_remaining()
        if remaining is None:
            remaining = self.settings.default_deadline_seconds
        if remaining <= 0:
            raise DeadlineExceeded("the deadline had passed when the call arrived", reason="DEADLINE_ALREADY_PASSED")
        if self.running > self.settings.max_concurrent_calls:
            self.metrics.refused.inc()
            text = f"{self.settings.max_concurrent_calls} calls run already"
            raise ResourceExhausted(text, reason="OVERLOADED", retry_after_seconds=0.5)
        identity.enter(identity.from_metadata(context.invocation_metadata() or (), self.secret))
        if isinstance(request, Undecodable):
            raise request.error
        return float(remaining)

    def _unary(self, name: str, inner: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            begun = time.monotonic()
            code = grpc.StatusCode.OK
            self.running += 1
            self.metrics.in_flight.inc()
            try:
                async with asyncio.timeout(self._enter(request, context)):
                    return await inner(request, context)
            except BaseException as failure:
                code, error = self._explain(name, failure, context)
                if error is None:
                    raise
                await context.abort(code, clipped(error.message, 1000), trailing(error))
            finally:
                self._left(name, code, begun)

        return call

    def _stream(self, name: str, inner: Any, has_content: Callable[[Any], bool]) -> Any:
        async def call(request: Any, context: Any) -> AsyncGenerator[Any, None]:
            begun = time.monotonic()
            code = grpc.StatusCode.OK
            last: float | None = None
            self.running += 1
            self.metrics.in_flight.inc()
            produced = None
            try:
                async with asyncio.timeout(self._enter(request, context)):
                    if hasattr(request, "__aiter__"):
                        request = self._checked(request)
                    produced = inner(request, context)
                    async for message in produced:
                        if has_content(message):
                            now = time.monotonic()
                            if last is None:
                                self.metrics.ttft.labels(name).observe(now - begun)
                            else:
                                self.metrics.inter_token.labels(name).observe(now - last)
                            last = now
                        yield message
            except BaseException as failure:
                code, error = self._explain(name, failure, context)
                if error is None:
                    raise
                await context.abort(code, clipped(error.message, 1000), trailing(error))
            finally:
                if produced is not None:
                    await produced.aclose()
                self._left(name, code, begun)

        return call

    @staticmethod
    async def _checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for request in requests:
            if isinstance(request, Undecodable):
                raise request.error
            yield request

    def _left(self, name: str, code: grpc.StatusCode, begun: float) -> None:
        self.running -= 1
        self.metrics.in_flight.dec()
        self.metrics.requests.labels(name, code.name).inc()
        self.metrics.duration.labels(name).observe(time.monotonic() - begun)

    @staticmethod
    def _explain(name: str, failure: BaseException, context: Any) -> tuple[grpc.StatusCode, GenmeshError | None]:
        """A failure's code, and the error to answer with; None where the failure passes through (cancellation)."""
        if isinstance(failure, asyncio.CancelledError | GeneratorExit):
            remaining = context.time_remaining()
            passed = remaining is not None and remaining <= 0
            return grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED, None
        if isinstance(failure, GenmeshError):
            error = failure
        elif isinstance(failure, TimeoutError):
            error = DeadlineExceeded("the deadline passed while the call ran")
        else:
            log.exception("unexpected failure in %s", name)
            error = Internal("an unexpected error; the server's log has the cause", reason="UNEXPECTED")
        if error.code is grpc.StatusCode.INTERNAL:
            log.error("%s: %s", name, error.message, extra={"fields": {"reason": error.reason}})
        return error.code, error
