from prometheus_client import CollectorRegistry, Counter


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter("genmesh_tokenization_tokens", "Tokens encoded or counted.", registry=registry)
