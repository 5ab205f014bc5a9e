from prometheus_client import CollectorRegistry, Counter, Histogram

from services.runtime import buckets


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.inputs = Counter(
            "genmesh_embedding_inputs", "Inputs of Embed, by outcome.", ["outcome"], registry=registry
        )
        self.input_ok, self.input_failed = self.inputs.labels("ok"), self.inputs.labels("error")
        self.tokens = Counter("genmesh_embedding_tokens", "Tokens that the model read.", registry=registry)
        self.reranked = Counter("genmesh_embedding_reranked_passages", "Passages scored.", registry=registry)
        self.batch = Histogram(
            "genmesh_embedding_batch_size_inputs", "Inputs that one call sends to Triton.",
            buckets=buckets.BATCH_SIZE, registry=registry,
        )  # fmt: skip
