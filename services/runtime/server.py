"""Bring a service up and down: interceptor, servicers, health, reflection, metrics, signals, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from services.runtime import loop, tracing
from services.runtime.health import Health, Probe
from services.runtime.interceptors.boundary import Boundary
from services.runtime.metrics import Server
from services.runtime.settings import ServiceSettings
from services.runtime.work import SWITCH_SECONDS

log = logging.getLogger(__name__)
# The transport refuses messages that are so much larger than the limit unread; up to it, our own error explains.
MARGIN_BYTES = 8 * 2**20
ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Part:
    """A proto service of this process: its full name, and what adds its servicer to the server."""

    name: str
    add: Callable[[grpc.aio.Server], None]


def registry() -> CollectorRegistry:
    """A registry with the process's own metrics (CPU, memory, garbage collection)."""
    # When a series was made tells nobody anything here, and is a third of a scrape.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    found = CollectorRegistry()
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    return found


def options(settings: ServiceSettings) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes + MARGIN_BYTES),
        ("grpc.max_send_message_length", ANSWER_BYTES),
        # Two processes on one port would split the calls; fail instead.
        ("grpc.so_reuseport", 0),
        # Clients reconnect now and then, so that new replicas get their share. Calls in flight end by themselves.
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", 60 * 60 * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def server_metrics(service: str, names: Sequence[str], registry: CollectorRegistry, *more: str) -> Server:
    """The metrics of a server of these proto services; ``more`` are methods that no proto names."""
    pool = descriptor_pool.Default()
    methods = [method for name in names for method in pool.FindServiceByName(name).methods]
    streams = [method.name for method in methods if method.server_streaming]
    return Server(service, registry, method=[*(m.name for m in methods), *more], stream=[*streams, *more])


async def run(
    server: grpc.aio.Server,
    settings: ServiceSettings,
    health: Health,
    metrics: CollectorRegistry,
    lag: Histogram,
    names: Sequence[str],
    credentials: grpc.ServerCredentials | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then say NOT_SERVING, let calls end, and stop."""
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    reflection.enable_server_reflection([*names, HEALTH, reflection.SERVICE_NAME], server)
    try:
        address = f"{settings.host}:{settings.port}"
        if not (server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)):
            raise RuntimeError("port taken")
        exporter, _ = start_http_server(settings.metrics_port, settings.host, metrics)
    except (RuntimeError, OSError) as failure:
        raise SystemExit(
            f"Cannot listen on {settings.host}:{settings.port} or on metrics port {settings.metrics_port}: {failure}"
        ) from None
    await server.start()
    # What is there by now stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)
    beside = [asyncio.create_task(health.watch()), asyncio.create_task(loop.watch(lag))]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("listening on %s:%d", settings.host, settings.port)
    await stop.wait()
    log.info("draining for at most %.0f s", settings.lame_duck_seconds + settings.drain_seconds)
    # What it leans on is looked at to the end: a drain takes minutes, and what its metrics said at its beginning would
    # stand for all of them.
    await health.enter_drain()
    # Calls that are still on their way here are served: only then is everyone told to go away.
    await asyncio.sleep(settings.lame_duck_seconds)
    await server.stop(settings.drain_seconds)
    for task in beside:
        task.cancel()
    exporter.shutdown()
    await asyncio.to_thread(tracing.close)


async def serve(
    service: str,
    settings: ServiceSettings,
    parts: Sequence[Part],
    probes: Mapping[str, Probe],
    metrics: CollectorRegistry,
    close: Callable[[], Awaitable[None]] | None = None,
    optional: Mapping[str, Probe] | None = None,
) -> None:
    """Serve the parts. ``probes`` are what must answer before any of them is SERVING, by name; ``optional`` ones need not."""
    counted = server_metrics(service, [part.name for part in parts], metrics)
    server = grpc.aio.server(
        interceptors=[Boundary(settings, counted)],
        options=options(settings),
    )
    for part in parts:
        part.add(server)
    names = [part.name for part in parts]
    try:
        await run(server, settings, Health(names, probes, optional=optional), metrics, counted.lag, names)
    finally:
        if close is not None:
            await close()
