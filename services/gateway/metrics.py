from prometheus_client import CollectorRegistry, Counter

from services.runtime.metrics import ServerMetrics


class Metrics(ServerMetrics):
    """What every server measures, and whom this one turned away."""

    def __init__(self, methods: list[str], registry: CollectorRegistry) -> None:
        super().__init__("gateway", methods, registry)
        self.unauthenticated = Counter(
            "genmesh_gateway_unauthenticated_requests",
            "Calls without a valid key, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in ("API_KEY_MISSING", "API_KEY_INVALID"):
            self.unauthenticated.labels(reason)
