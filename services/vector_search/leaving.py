"""Cancel a running call to Milvus when its caller disconnects, rather than wait for its deadline.

pymilvus blocks its thread until the answer comes. This module makes its channel start each call as a future, which another
thread can cancel.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import grpc
from pymilvus.client.grpc_handler import GrpcHandler


class Caller:
    """The caller on whose behalf one thread calls Milvus."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: grpc.Future | None = None
        self._left = False

    def begins(self, call: grpc.Future) -> None:
        with self._lock:
            self._call, left = call, self._left
        if left:
            call.cancel()

    def leaves(self) -> None:
        """End the call that runs, and each that begins from now on."""
        with self._lock:
            self._left, call = True, self._call
        if call is not None:
            call.cancel()


caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


class _Method:
    def __init__(self, method: grpc.UnaryUnaryMultiCallable) -> None:
        self._method = method

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.with_call(*args, **options)[0]

    def with_call(self, *args: Any, **options: Any) -> tuple[Any, Any]:
        call = self.future(*args, **options)
        return call.result(), call

    def future(self, *args: Any, **options: Any) -> Any:
        call = self._method.future(*args, **options)
        if waits := caller.get():
            waits.begins(call)
        return call


class _Channel:
    """A channel whose unary calls another thread can cancel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, *args: Any, **options: Any) -> _Method:
        return _Method(self._channel.unary_unary(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


_create = GrpcHandler._create_grpc_channel


def _create_grpc_channel(handler: GrpcHandler, address: str | None = None) -> _Channel:
    return _Channel(_create(handler, address))


GrpcHandler._create_grpc_channel = _create_grpc_channel
