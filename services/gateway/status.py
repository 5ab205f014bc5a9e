"""The gateway's status page: health of each part, live TTFT and throughput, recent errors.

A thread serves three paths: ``/`` (the page), ``/status.json`` (what it draws) and ``/healthz`` (200 unless the gateway
is draining, for probes that cannot speak gRPC over TLS). The numbers are the gateway's own
metrics, read once a second; nothing on a call's path is added but one entry a failed call.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.metrics import MetricWrapperBase

from services.runtime.errors import reason_in
from services.runtime.health import DEPENDENCY, PROBE_TIMEOUT_SECONDS, Health
from services.runtime.metrics import TEXT_STREAMS, Server

KEPT_SECONDS, KEPT_ERRORS = 600, 50
# TTFT's percentiles are over calls of so many seconds.
WINDOW_SECONDS = 30
PERCENTILES = {"ttft_p50_seconds": 0.5, "ttft_p95_seconds": 0.95, "ttft_p99_seconds": 0.99}
# Rates are over so many seconds.
RATE_SECONDS = 5
# What each part is known to lean on; a part that does not (a cache in its own memory) says so by NOT_FOUND.
DEPENDENCIES = {
    "tokenization": ("redis",),
    "embedding": ("triton/embedder", "triton/reranker", "redis"),
    "vector_search": ("milvus",),
    "generation": ("triton/generator",),
    "diffusion": ("triton/diffuser",),
    "rag": (),
}


def quantile(share: float, bounds: list[float], counts: list[float]) -> float | None:
    """The ``share`` quantile of a histogram as PromQL's histogram_quantile has it: linear within a bucket.

    ``counts`` are those at or under each of ``bounds``, the last one infinite. None where nothing was counted.
    """
    total = counts[-1] if counts else 0
    if total <= 0:
        return None
    rank, below, low = share * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * ((rank - below) / (count - below) if count > below else 1)
        below, low = count, bound
    return low


class Sample:
    """The gateway's counters at one moment, over all methods."""

    def __init__(self, metrics: Server) -> None:
        self.at = time.monotonic()
        self.calls = self.failed = 0.0
        for labels, value in _values(metrics.requests, "_total"):
            self.calls += value
            self.failed += value if labels["code"] not in ("OK", "CANCELLED") else 0
        buckets: dict[float, float] = {}
        for labels, value in _values(metrics.ttft, "_bucket"):
            if labels["method"] not in TEXT_STREAMS:
                continue
            bound = float(labels["le"])
            buckets[bound] = buckets.get(bound, 0) + value
        self.bounds = sorted(buckets)
        self.ttft = [buckets[bound] for bound in self.bounds]
        self.messages = sum(value for _, value in _values(metrics.inter_token, "_count")) + (self.ttft or [0])[-1]


def _values(metric: MetricWrapperBase, suffix: str) -> list[tuple[dict[str, str], float]]:
    return [(s.labels, s.value) for family in metric.collect() for s in family.samples if s.name.endswith(suffix)]


class Status:
    """Collects what the page shows."""

    def __init__(self, metrics: Server, channels: Mapping[str, grpc.aio.Channel]) -> None:
        """``channels``: to each part, by its name."""
        self.metrics, self.channels = metrics, channels
        self.begun = time.time()
        self.errors: deque[dict[str, str]] = deque(maxlen=KEPT_ERRORS)
        self._window: deque[Sample] = deque(maxlen=WINDOW_SECONDS + 1)
        self._points: deque[dict[str, float | None]] = deque(maxlen=KEPT_SECONDS)
        self._parts: list[dict[str, Any]] = []
        self.page = b"{}"

    def failed(self, method: str, code: grpc.StatusCode, request_id: str, details: Any) -> None:
        """A call that was answered with an error; no text of the caller's is kept."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "method": method, "code": code.name, "reason": reason_in(details) or code.name}
        self.errors.appendleft(entry | {"request_id": request_id})

    async def watch(self) -> None:
        while True:
            self._measure()
            self._parts = await self._ask()
            self.page = json.dumps(self.snapshot()).encode()
            await asyncio.sleep(1)

    def _measure(self) -> None:
        now = Sample(self.metrics)
        if self._window:
            last, first = self._window[-min(RATE_SECONDS, len(self._window))], self._window[0]
            seconds = now.at - last.at
            counts = [new - old for new, old in zip(now.ttft, first.ttft, strict=True)]
            self._points.append(
                {
                    "time": time.time(),
                    "calls_per_second": (now.calls - last.calls) / seconds,
                    "errors_per_second": (now.failed - last.failed) / seconds,
                    "messages_per_second": (now.messages - last.messages) / seconds,
                    "in_flight": next(value for _, value in _values(self.metrics.in_flight, "_in_flight")),
                    **{name: quantile(share, now.bounds, counts) for name, share in PERCENTILES.items()},
                }
            )
        self._window.append(now)

    async def _state(self, part: str, service: str) -> str:
        try:
            stub = health_pb2_grpc.HealthStub(self.channels[part])
            request = health_pb2.HealthCheckRequest(service=service)
            answer = await stub.Check(request, timeout=PROBE_TIMEOUT_SECONDS)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        except grpc.aio.AioRpcError as failure:
            return str(failure.code().name)

    async def _ask(self) -> list[dict[str, Any]]:
        asked = [(part, "") for part in self.channels]
        asked += [(part, DEPENDENCY + name) for part in self.channels for name in DEPENDENCIES[part]]
        states = dict(zip(asked, await asyncio.gather(*(self._state(*one) for one in asked)), strict=True))
        return [
            {
                "name": part,
                "state": states[part, ""],
                "dependencies": [
                    {"name": name, "state": state if states[part, ""] != "UNAVAILABLE" else "UNKNOWN"}
                    for name in DEPENDENCIES[part]
                    if (state := states[part, DEPENDENCY + name]) != "NOT_FOUND"
                ],
            }
            for part in self.channels
        ]

    def snapshot(self) -> dict[str, Any]:
        return {
            "time": time.time(),
            "up_seconds": time.time() - self.begun,
            "parts": self._parts,
            "points": list(self._points),
            "errors": list(self.errors),
        }


def serve(status: Status, health: Health, host: str, port: int) -> ThreadingHTTPServer:
    """Serve the page until ``shutdown``."""
    page = files("services.gateway").joinpath("status.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/":
                self._answer(200, "text/html; charset=utf-8", page)
            elif path == "/status.json":
                self._answer(200, "application/json", status.page)
            elif path == "/healthz":
                code, text = (503, b"draining\n") if health.draining else (200, b"ok\n")
                self._answer(code, "text/plain; charset=utf-8", text)
            else:
                self._answer(404, "text/plain; charset=utf-8", b"There is /, /status.json and /healthz.\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
    return server
