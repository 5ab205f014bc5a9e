"""Channels to other services: retries and deadlines from the service config, the call's identity along."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import grpc

from services.runtime import identity, tracing

LIMIT = 64 * 2**20
# Every replica that the address resolves to gets its calls in turn.
BALANCED = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def service_config() -> str:
    """protos/service_config.json, as the client package carries it."""
    return files("genmesh").joinpath("service_config.json").read_text()


def connect(address: str, *, with_config: bool = True) -> grpc.aio.Channel:
    """A channel; an address with several replicas (``dns:///name:port``) is balanced call by call."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", LIMIT),
        ("grpc.max_send_message_length", LIMIT),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    options.append(("grpc.service_config", service_config() if with_config else BALANCED))
    options.append(("grpc.enable_retries", int(with_config)))
    return grpc.aio.insecure_channel(address, options=options)


def onward(context: Any, *, reserve_seconds: float = 0.0) -> dict[str, Any]:
    """Keyword arguments of a call made for the call at hand: its identity and what is left of its deadline."""
    remaining = context.time_remaining()
    metadata = identity.current().metadata()
    if tracing.on():
        metadata = (*identity.current().metadata(trace=False), *tracing.headers().items())
    arguments: dict[str, Any] = {"metadata": metadata}
    if remaining is not None:
        arguments["timeout"] = max(0.001, remaining - reserve_seconds)
    return arguments
