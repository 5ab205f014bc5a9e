"""The sync client.

Each service is an attribute with the RPCs of the protos by name. A unary method returns its response;
a server stream returns an iterator that cancels the call when it is closed or left; a method that
takes a stream takes an iterable of requests. ``timeout`` is the deadline in seconds; without it the
service config's holds (see protos/service_config.json), which also retries what is safe to retry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from genmesh import _services
from genmesh.errors import from_rpc_error


class Stream:
    """A running server stream: iterate it; ``cancel`` (or leaving a ``with``) stops the work behind it."""

    def __init__(self, call: Any, faults: list[Exception]) -> None:
        """``faults``: what the caller's own iterable of requests raised, of which gRPC says nothing."""
        self._call, self._faults = call, faults

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as failure:
            raise next(iter(self._faults), None) or from_rpc_error(failure) from None
        finally:
            self._call.cancel()

    def cancel(self) -> None:
        self._call.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()


class Service:
    """One proto service; its RPCs are attributes."""

    def __init__(self, channel: grpc.Channel, name: str, api_key: str) -> None:
        for method in _services.methods(name):
            setattr(self, method.name, _bind(channel, f"/{name}/{method.name}", method, api_key))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"this service has no method {name}")


def _bind(channel: grpc.Channel, path: str, method: Any, api_key: str) -> Callable[..., Any]:
    request_class = _services.message_class(method, output=False)
    response_class = _services.message_class(method, output=True)
    arity = (
        ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    )
    stub = getattr(channel, arity)(
        path, request_serializer=request_class.SerializeToString, response_deserializer=response_class.FromString
    )

    def each(requests: Any, faults: list[Exception]) -> Iterator[Any]:
        try:
            for item in requests:
                yield _services.to_message(item, request_class)
        except Exception as failure:
            faults.append(failure)
            raise

    def call(
        request: Any, *, timeout: float | None = None, metadata: Iterable[tuple[str, str | bytes]] | None = None
    ) -> Any:
        _services.check_timeout(timeout)
        if method.client_streaming:
            _services.check_requests(request, Iterable)
        faults: list[Exception] = []
        body: Any = each(request, faults) if method.client_streaming else _services.to_message(request, request_class)
        arguments = {"timeout": timeout, "metadata": _services.with_key(metadata, api_key)}
        try:
            started = stub(body, **arguments)
        except grpc.RpcError as failure:
            raise from_rpc_error(failure) from None
        except ValueError:  # all else is checked above
            raise _services.closed() from None
        return Stream(started, faults) if method.server_streaming else started

    call.__name__ = method.name
    return call


class Client:
    """A connection to a gateway. Use it in a ``with``, or call ``close``. Safe to share between threads."""

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
        self.channel: grpc.Channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        for attribute, name in _services.SERVICES.items():
            setattr(self, attribute, Service(self.channel, name, key))

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
