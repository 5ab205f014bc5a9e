"""Channels to other services: retries and deadlines from the service config, the call's identity along."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import grpc

from services.runtime import identity, tracing
from services.runtime.health import ITSELF

LIMIT = 64 * 2**20
# To a replica in the cluster. One that hangs or is cut off is found out in ten seconds, also in the middle of a call; it
# is connected to again at once, and then each three seconds.
CONNECTION = [
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
]
# Every replica that the address resolves to gets its calls in turn, as long as it says that it itself serves: one that
# drains says otherwise at once (gRFC A17), and its calls in flight go on.
BALANCED = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ITSELF}}


def service_config(retries: bool) -> str:
    """BALANCED; with ``retries`` and default deadlines from protos/service_config.json, as the client package has it."""
    ours = json.loads(files("genmesh").joinpath("service_config.json").read_text()) if retries else {}
    return json.dumps(ours | BALANCED)


def connect(address: str, *, with_config: bool = True) -> grpc.aio.Channel:
    """A channel; an address with several replicas (``dns:///name:port``) is balanced call by call."""
    options = [
        ("grpc.max_receive_message_length", LIMIT),
        ("grpc.max_send_message_length", LIMIT),
        *CONNECTION,
        # A connection that ends asks DNS again, so new replicas get calls; gRPC would wait 30 s between questions.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.service_config", service_config(with_config)),
    ]
    # Retries stay on where no policy asks for any: a call that a connection which grows old never took goes out again by
    # itself (gRFC A6's transparent retries). Without, one of some ten thousand failed.
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
