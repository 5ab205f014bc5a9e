"""The one interceptor between the wire and a servicer.

In order: decode the message (a broken one names its field), refuse a passed deadline or a full
server, find the caller, run the method under a deadline, turn errors into statuses, and measure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from services.runtime import deadline, identity
from services.runtime.calls import Call, Calls, check_size, greet
from services.runtime.errors import (
    MESSAGE_BYTES,
    DeadlineExceeded,
    GenmeshError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Violation,
    clipped,
    trailing,
)
from services.runtime.metrics import Server
from services.runtime.settings import ServiceSettings
from services.runtime.wire import broken_utf8
from services.runtime.work import SMALL_BYTES

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
        try:
            check_size(data, limit)
            return kind.FromString(data)
        except ResourceExhausted as failure:
            return Undecodable(failure)
        except DecodeError:
            # Of a larger message the look for it would hold up all other calls.
            field = broken_utf8(data, kind.DESCRIPTOR) if len(data) <= SMALL_BYTES else None  # type: ignore[arg-type]
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

    def __init__(self, settings: ServiceSettings, metrics: Server) -> None:
        self.settings = settings
        self.secret = settings.identity_secret.get_secret_value().encode()
        self.calls = Calls(settings, metrics)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.lstrip("/").startswith(OPEN):
            return handler
        path = details.method.lstrip("/")
        method = descriptor_pool.Default().FindMethodByName(path.replace("/", "."))
        decode = decoder(message_factory.GetMessageClass(method.input_type), self.settings.max_message_bytes)
        if handler.response_streaming:
            marks = content_marks(message_factory.GetMessageClass(method.output_type))
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            behaviour = self._stream(path, inner, marks)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = self._unary(path, handler.unary_unary)
            make = grpc.unary_unary_rpc_method_handler
        return make(behaviour, request_deserializer=decode, response_serializer=handler.response_serializer)

    def _enter(self, call: Call, request: Any, context: Any) -> float:
        """Admit a call and find its caller; the seconds that it may take."""
        remaining = call.admit(context)
        deadline.enter(remaining)
        identity.enter(identity.from_metadata(context.invocation_metadata() or (), self.secret))
        if isinstance(request, Undecodable):
            raise request.error
        return remaining

    def _unary(self, path: str, inner: Any) -> Any:
        async def behaviour(request: Any, context: Any) -> Any:
            with self.calls.begin(path, context) as call:
                try:
                    async with asyncio.timeout(self._enter(call, request, context)):
                        return await inner(request, context)
                except BaseException as failure:
                    if call.left(failure, context):
                        raise
                    await self._abort(call, path, failure, context)

        return behaviour

    def _stream(self, path: str, inner: Any, has_content: Callable[[Any], bool]) -> Any:
        async def behaviour(request: Any, context: Any) -> AsyncGenerator[Any, None]:
            produced = None
            with self.calls.begin(path, context, streams=True) as call:
                try:
                    async with asyncio.timeout(self._enter(call, request, context)):
                        if hasattr(request, "__aiter__"):
                            request = self._checked(request)
                        # Before the work, so that only the first content itself is on TTFT's path.
                        await greet(context, ())
                        produced = inner(request, context)
                        async for message in produced:
                            if has_content(message):
                                call.content()
                            yield message
                except BaseException as failure:
                    if call.left(failure, context):
                        raise
                    await self._abort(call, path, failure, context)
                finally:
                    if produced is not None:
                        await produced.aclose()

        return behaviour

    @staticmethod
    async def _checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for request in requests:
            if isinstance(request, Undecodable):
                raise request.error
            yield request

    @staticmethod
    async def _abort(call: Call, path: str, failure: BaseException, context: Any) -> None:
        """Answer with the failure's status."""
        if isinstance(failure, GenmeshError):
            error = failure
        elif isinstance(failure, TimeoutError):
            error = DeadlineExceeded("the deadline passed while the call ran")
        else:
            log.exception("unexpected failure in %s", path)
            error = Internal("an unexpected error; the server's log has the cause", reason="UNEXPECTED")
        if error.code is grpc.StatusCode.INTERNAL:
            log.error("%s: %s", path, error.message, extra={"fields": {"reason": error.reason}})
        call.code = error.code
        await context.abort(error.code, clipped(error.message, MESSAGE_BYTES), trailing(error))
