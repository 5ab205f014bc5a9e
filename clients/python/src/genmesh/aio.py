"""The asyncio client: the sync client's surface, awaited; see ``genmesh.client``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from genmesh import _services
from genmesh.errors import Cancelled, from_rpc_error


def _error(failure: grpc.aio.AioRpcError | asyncio.CancelledError) -> BaseException:
    """The exception to raise; gRPC raises CancelledError also if not the task was cancelled, but only its call."""
    if not isinstance(failure, asyncio.CancelledError):
        return from_rpc_error(failure)
    task = asyncio.current_task()
    return failure if task and task.cancelling() else Cancelled("the call was cancelled", grpc.StatusCode.CANCELLED)


class Stream:
    """A running server stream: ``async for`` over it; ``cancel`` (or leaving an ``async with``) stops the work behind it."""

    def __init__(self, call: Any, faults: list[Exception]) -> None:
        """``faults``: what the caller's own iterable of requests raised, of which gRPC says nothing."""
        self._call, self._faults = call, faults

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            if self._faults:
                raise self._faults[0] from None
            raise _error(failure) from None
        finally:
            self._call.cancel()

    def cancel(self) -> None:
        self._call.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cancel()


class Service:
    """One proto service; its RPCs are attributes."""

    def __init__(self, channel: grpc.aio.Channel, name: str, api_key: str) -> None:
        for method in _services.methods(name):
            setattr(self, method.name, _bind(channel, f"/{name}/{method.name}", method, api_key))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"this service has no method {name}")


def _bind(channel: grpc.aio.Channel, path: str, method: Any, api_key: str) -> Callable[..., Any]:
    request_class = _services.message_class(method, output=False)
    response_class = _services.message_class(method, output=True)
    arity = (
        ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    )
    stub = getattr(channel, arity)(
        path, request_serializer=request_class.SerializeToString, response_deserializer=response_class.FromString
    )

    async def each(requests: Any, faults: list[Exception]) -> AsyncIterator[Any]:
        try:
            if isinstance(requests, AsyncIterable):
                async for item in requests:
                    yield _services.to_message(item, request_class)
            else:
                for item in requests:
                    yield _services.to_message(item, request_class)
        except Exception as failure:
            faults.append(failure)
            raise

    def start(body: Any, arguments: dict[str, Any]) -> Any:
        try:
            return stub(body, **arguments)
        except grpc.aio.UsageError:  # all else is checked before
            raise _services.closed() from None

    async def unary(body: Any, arguments: dict[str, Any]) -> Any:
        try:
            return await start(body, arguments)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            raise _error(failure) from None

    def call(
        request: Any, *, timeout: float | None = None, metadata: Iterable[tuple[str, str | bytes]] | None = None
    ) -> Any:
        _services.check_timeout(timeout)
        if method.client_streaming:
            _services.check_requests(request, Iterable, AsyncIterable)
        faults: list[Exception] = []
        body: Any = each(request, faults) if method.client_streaming else _services.to_message(request, request_class)
        arguments = {"timeout": timeout, "metadata": _services.with_key(metadata, api_key)}
        return Stream(start(body, arguments), faults) if method.server_streaming else unary(body, arguments)

    call.__name__ = method.name
    return call


class Client:
    """A connection to a gateway. Use it in an ``async with``, or await ``close``."""

    tokenization: Service
    embedding: Service
    vector_search: Service
    generation: Service
    diffusion: Service
    rag: Service
    models: Service

    def __init__(
        self, target: str, *, api_key: str | None = None, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """``target``: host:port of the gateway. ``credentials``: for TLS; plain text where None."""
        _services.check_connection(target, credentials)
        key = _services.checked_key(api_key)
        options = _services.channel_options()
        self.channel: grpc.aio.Channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        for attribute, name in _services.SERVICES.items():
            setattr(self, attribute, Service(self.channel, name, key))

    async def close(self) -> None:
        await self.channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
