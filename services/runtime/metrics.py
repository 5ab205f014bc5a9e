"""What every server measures, under its own name: ``genmesh_<service>_<what>_<unit>``."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime import buckets

CODES = tuple(code.name for code in grpc.StatusCode)


class ServerMetrics:
    """Requests, durations, TTFT and time between pieces; each series starts at zero."""

    def __init__(self, service: str, methods: Iterable[str], registry: CollectorRegistry) -> None:
        prefix = f"genmesh_{service}_"
        self.requests = Counter(
            prefix + "requests", "Calls that ended, by gRPC status code.", ["method", "code"], registry=registry
        )
        self.duration = Histogram(
            prefix + "request_duration_seconds", "From a call's arrival to its end.",
            ["method"], buckets=buckets.DURATION_SECONDS, registry=registry,
        )  # fmt: skip
        self.ttft = Histogram(
            prefix + "time_to_first_token_seconds",
            "From a call's arrival to the first message with content leaving this server; streams only.",
            ["method"], buckets=buckets.TTFT_SECONDS, registry=registry,
        )  # fmt: skip
        self.inter_token = Histogram(
            prefix + "inter_token_latency_seconds", "Between two messages with content of one stream.",
            ["method"], buckets=buckets.INTER_TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(prefix + "requests_in_flight", "Calls that run now.", registry=registry)
        self.refused = Counter(prefix + "requests_refused", "Calls refused because too many ran.", registry=registry)
        for method in methods:
            self.prepare(method)

    def prepare(self, method: str) -> None:
        """Make a method's series, at zero."""
        for code in CODES:
            self.requests.labels(method, code)
        self.duration.labels(method)
        self.ttft.labels(method)
        self.inter_token.labels(method)
