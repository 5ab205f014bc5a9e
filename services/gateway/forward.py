"""Forward calls as bytes, by the name of their service.

The gateway never parses a message. Which methods stream it learns from the compiled protos, only to
take the cheaper road for unary calls; a method that they do not know is forwarded as a stream both
ways, which is the same on the wire. TTFT is seen in the first byte: a streamed message's content is
its field 1 (see the protos), and a serializer writes fields in order, so content begins with 0x0A.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pool

from services.gateway.keys import Keys
from services.gateway.settings import Settings
from services.gateway.status import Status
from services.runtime import identity, tracing
from services.runtime.calls import Call, Calls, check_size, greet
from services.runtime.errors import (
    MESSAGE_BYTES,
    DeadlineExceeded,
    GenmeshError,
    Internal,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    clipped,
    trailing,
)
from services.runtime.interceptors.boundary import OPEN
from services.runtime.metrics import Gateway, Server, Tenants

log = logging.getLogger(__name__)
X_REQUEST_ID = "x-request-id"
CONTENT = b"\x0a"  # field 1, length-delimited
UNKNOWN = "unknown"  # what metrics call a method that the protos do not have
# Metadata that is this hop's own and never forwarded.
DROPPED = ("authorization", "x-api-key", "user-agent", "te", "content-type")
Request = bytes | AsyncIterator[bytes]
Abort = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]


def _no_method(path: str) -> Unimplemented:
    return Unimplemented(f"there is no method {clipped(path)}", reason="METHOD_NOT_FOUND")


class _Told:
    """A call's inner half that keeps the server's own status where a write to the call fails.

    A server may end a call before it has read it (a method that it does not know, too many calls at once). grpc.aio
    then takes the failed write for the call's end (INTERNAL, "Internal error from Core"), if that is seen first.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_internal_error(self, text: str) -> None:
        """The status is on its way."""


class Forwarder(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(
        self,
        settings: Settings,
        channels: Mapping[str, grpc.aio.Channel],
        keys: Keys,
        server: Server,
        metrics: Gateway,
        status: Status,
    ) -> None:
        self.settings, self.channels, self.keys, self.metrics, self.status = settings, channels, keys, metrics, status
        self.secret = settings.identity_secret.get_secret_value().encode()
        self.calls = Calls(settings, server)
        self.tenants = Tenants()
        self._handlers: dict[str, grpc.RpcMethodHandler | None] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = details.method
        if path not in self._handlers:
            if len(self._handlers) > 10_000:  # paths come from clients; do not keep them all
                return self._handler(path)
            self._handlers[path] = self._handler(path)
        return self._handlers[path]

    def _handler(self, path: str) -> grpc.RpcMethodHandler | None:
        service, _, name = path.lstrip("/").partition("/")
        channel = self.channels.get(service)
        try:
            method = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
        except KeyError:
            method = None
        if channel is None:
            if method is not None and f"{service}.".startswith(OPEN):
                return None  # this server's own
            return grpc.stream_stream_rpc_method_handler(self._refused(path))
        if method is None:
            return grpc.stream_stream_rpc_method_handler(self._streamed(path, UNKNOWN, channel.stream_stream(path)))
        if method.server_streaming and method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streamed(path, name, channel.stream_stream(path)))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streamed(path, name, channel.unary_stream(path)))
        return grpc.unary_unary_rpc_method_handler(self._unary(path, name, channel.unary_unary(path)))

    # One call

    def _begin(self, path: str, name: str, context: Any, *, streams: bool = False) -> Call:
        """A call has its caller's ``x-request-id``, else one of ours; every response has it."""
        call = self.calls.begin(path, context, name=name, streams=streams)
        given = dict(context.invocation_metadata() or ())
        call.request_id = str(given.get(X_REQUEST_ID) or os.urandom(16).hex())[:128]
        return call

    def _inward(self, call: Call, context: Any) -> identity.Metadata:
        """The metadata that travels inward: the caller's own, less what is this hop's, and who calls."""
        given = tuple((key, value) for key, value in context.invocation_metadata() or ())
        try:
            tenant = self.keys.tenant(given)
        except Unauthenticated as failure:
            self.metrics.unauthenticated.labels(failure.reason).inc()
            raise
        label = self.tenants.label(tenant)
        call.on_end(lambda: self.metrics.tenant_requests.labels(label, call.code.name).inc())
        kept = (
            (key, value)
            for key, value in given
            if key not in DROPPED and not key.startswith((identity.RESERVED, "grpc-", ":"))
        )
        caller = identity.Call(tenant, call.request_id, identity.sign(self.secret, tenant))
        identity.enter(caller)
        own = caller.metadata()
        if tracing.on():  # this hop's span takes the place of the caller's
            kept = ((key, value) for key, value in kept if key not in identity.PASSED_ON)
            return (*kept, *own, *tracing.headers().items())
        return (*kept, *own)

    def _checked(self, data: bytes) -> bytes:
        check_size(data, self.settings.max_message_bytes)
        return data

    def _unary(self, path: str, name: str, inner: Any) -> Any:
        path = path.lstrip("/")

        async def forward(request: bytes, context: Any) -> bytes | None:
            with self._begin(path, name, context) as call:
                try:
                    timeout = call.admit(context)
                    with tracing.client(path):
                        running = inner(self._checked(request), timeout=timeout, metadata=self._inward(call, context))
                        response: bytes = await running
                    await self._pass_metadata(running, call, context)
                    return response
                except BaseException as failure:
                    if call.left(failure, context):
                        raise
                    await self._abort(call, name, path, failure, context)
                    raise AssertionError from failure

        return forward

    def _streamed(self, path: str, name: str, inner: Any) -> Any:
        path = path.lstrip("/")

        async def forward(request: Request, context: Any) -> AsyncGenerator[bytes, None]:
            running: Any = None
            fault: list[GenmeshError] = []

            async def checked(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
                async for data in requests:
                    try:
                        yield self._checked(data)
                    except GenmeshError as failure:
                        fault.append(failure)
                        running.cancel()
                        return

            with self._begin(path, name, context, streams=True) as call, tracing.client(path):
                try:
                    timeout = call.admit(context)
                    body = self._checked(request) if isinstance(request, bytes) else checked(request)
                    running = inner(body, timeout=timeout, metadata=self._inward(call, context))
                    running._cython_call = _Told(running._cython_call)
                    # As soon as the service sends it: only the first content itself is on TTFT's path.
                    begun = await running.initial_metadata()
                    await greet(context, (*begun, (X_REQUEST_ID, call.request_id)))
                    async for message in running:
                        if message[:1] == CONTENT:
                            call.content()
                        yield message
                    await self._pass_metadata(running, call, context)
                except BaseException as failure:
                    if not fault and call.left(failure, context):
                        raise
                    await self._abort(call, name, path, fault[0] if fault else failure, context)
                finally:
                    if running is not None:
                        running.cancel()

        return forward

    def _refused(self, path: str) -> Any:
        """Refuses a call of a service that is not ours; without a key too, so that a generic client finds out what to ask."""
        path = path.lstrip("/")

        async def refuse(_: Request, context: Any) -> None:
            with self._begin(path, UNKNOWN, context) as call:
                await self._abort(call, UNKNOWN, path, _no_method(path), context)

        return refuse

    async def _abort(self, call: Call, name: str, path: str, failure: BaseException, context: Any) -> None:
        call.code, message, details = self._explain(path, failure)
        self.status.failed(name, call.code, call.request_id, details)
        await context.abort(call.code, message, (*details, (X_REQUEST_ID, call.request_id)))

    @staticmethod
    async def _pass_metadata(running: Any, call: Call, context: Any) -> None:
        found = await running.trailing_metadata() or ()
        passed = ((k, v) for k, v in found if not k.startswith(identity.RESERVED))
        context.set_trailing_metadata((*passed, (X_REQUEST_ID, call.request_id)))

    @staticmethod
    def _explain(path: str, failure: BaseException) -> Abort:
        """What to abort with: the service's own status and details, or ours."""
        if isinstance(failure, grpc.aio.AioRpcError):
            code, details = failure.code(), tuple((k, v) for k, v in failure.trailing_metadata() or ())
            if any(key == "grpc-status-details-bin" for key, _ in details):
                return code, failure.details() or "", details
            error = GenmeshError(failure.details() or code.name, reason=code.name)
            error.code = code
            if code is grpc.StatusCode.UNAVAILABLE:
                text = "the service behind the gateway does not answer"
                error = Unavailable(text, reason="SERVICE_UNAVAILABLE", retry_after_seconds=1.0)
            elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
                error = DeadlineExceeded("the deadline passed while the call ran")
            elif code is grpc.StatusCode.UNIMPLEMENTED:
                error = _no_method(path)
        elif isinstance(failure, GenmeshError):
            error = failure
        else:
            log.exception("unexpected failure in %s", path)
            error = Internal("an unexpected error; the gateway's log has the cause", reason="UNEXPECTED")
        return error.code, clipped(error.message, MESSAGE_BYTES), trailing(error)
