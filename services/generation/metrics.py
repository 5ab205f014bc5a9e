from prometheus_client import CollectorRegistry, Counter, Histogram

from services.runtime import buckets


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.input_tokens = Counter("genmesh_generation_input_tokens", "Tokens of prompts.", registry=registry)
        self.output_tokens = Counter(
            "genmesh_generation_output_tokens", "Tokens that the model wrote.", registry=registry
        )
        self.cancelled = Counter(
            "genmesh_generation_cancelled",
            "Generations whose caller went away or whose deadline passed.",
            registry=registry,
        )
        self.saved_tokens = Counter(
            "genmesh_generation_saved_tokens",
            "Tokens that cancelled generations had still been allowed to write.",
            registry=registry,
        )
        self.model_ttft = Histogram(
            "genmesh_generation_model_time_to_first_token_seconds",
            "From the request to Triton to its first token, streamed or not.",
            buckets=buckets.TTFT_SECONDS, registry=registry,
        )  # fmt: skip
        self.per_output_token = Histogram(
            "genmesh_generation_time_per_output_token_seconds",
            "From the first token to the last, divided by the tokens after the first.",
            buckets=buckets.INTER_TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
