"""Every metric of Genmesh's services, declared once: this file is the schema.

``genmesh_<service>_<what>_<unit>``, base units, monotonic clocks. A family below is a class; its attributes are its
metrics. Each series whose labels are known exists from the start, at zero. docs/metrics.md, the dashboards, the alerts
and the tests are made from these declarations or held against them; what Triton's models export stands in
model_repository/shared/measured.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, cast

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime import buckets

CODES = tuple(code.name for code in grpc.StatusCode)
# Streams whose first content is a text's first token; an image's first content is its last.
TEXT_STREAMS = ("StreamChat", "StreamGenerate", "StreamAnswer")
# How a stream can end: its last message left, its caller went away, its deadline passed, it failed.
ENDS = ("completed", "cancelled", "deadline", "error")
REFUSALS = ("OVERLOADED", "DEADLINE_ALREADY_PASSED")
OPERATIONS = ("alter", "create", "delete", "describe", "drop", "flush", "list", "query", "search", "upsert")
STAGES = ("rewrite", "expand", "hyde", "embed", "search", "rerank", "parents", "fit", "check", "generate")
GROUNDINGS = ("supported", "quotation", "no_answer")
# The most tenants with series of their own; those that come later share the label "other".
MOST_TENANTS = 100
OTHER = "other"


@dataclass(frozen=True)
class Open:
    """A label whose values the deployment decides; ``key`` is what a family's constructor calls them."""

    key: str
    text: str


Label = Sequence[str] | Open


@dataclass(frozen=True)
class Declared:
    """One metric; a label has its possible values, or is Open."""

    kind: type[Counter | Gauge | Histogram]
    what: str
    help: str
    labels: dict[str, Label] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    def name(self, service: str) -> str:
        """As Prometheus shows it."""
        return f"genmesh_{service}_{self.what}{'_total' if self.kind is Counter else ''}"

    def make(self, service: str, registry: CollectorRegistry, known: Mapping[str, Sequence[str]]) -> Any:
        extra: dict[str, Any] = {"buckets": self.buckets} if self.kind is Histogram else {}
        made = self.kind(f"genmesh_{service}_{self.what}", self.help, tuple(self.labels), registry=registry, **extra)
        values = [known.get(value.key, ()) if isinstance(value, Open) else value for value in self.labels.values()]
        for labels in product(*values) if values else ():
            made.labels(*labels)
        return made


def counter(what: str, text: str, **labels: Label) -> Counter:
    return cast(Counter, Declared(Counter, what, text, labels))


def gauge(what: str, text: str, **labels: Label) -> Gauge:
    return cast(Gauge, Declared(Gauge, what, text, labels))


def histogram(what: str, text: str, bounds: tuple[float, ...], **labels: Label) -> Histogram:
    return cast(Histogram, Declared(Histogram, what, text, labels, bounds))


METHOD = Open("method", "method of the API, without its service")
STREAM = Open("stream", "method with a stream of responses")
MODEL = Open("model", "name of the model in Triton")
CACHE = Open("cache", "kind of entry")
TENANT = Open("tenant", f"whose API key it was; past {MOST_TENANTS} tenants the rest share `{OTHER}`")


class Family:
    """Metrics that belong together; a subclass declares them, an instance holds them."""

    services: ClassVar[tuple[str, ...]]

    def __init__(self, service: str, registry: CollectorRegistry, **known: Iterable[str]) -> None:
        """``known``: values of labels that the deployment decides, such as ``model=[...]``."""
        if service not in self.services:
            raise ValueError(f"{type(self).__name__} is not declared for {service}")
        values = {label: tuple(found) for label, found in known.items()}
        for attribute, declared in self.declared().items():
            setattr(self, attribute, declared.make(service, registry, values))

    @classmethod
    def declared(cls) -> dict[str, Declared]:
        """Attribute -> declaration, in the order of the file."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Declared)}


SERVICES = ("gateway", "tokenization", "embedding", "vector_search", "generation", "diffusion", "rag")


class Server(Family):
    """The calls of a server."""

    services = SERVICES
    requests = counter("requests", "Calls that ended, by gRPC status code.", method=METHOD, code=CODES)
    streams = counter("streams", "Response streams that ended, by how.", method=STREAM, end=ENDS)
    duration = histogram(
        "request_duration_seconds", "From a call's arrival to its end.", buckets.DURATION_SECONDS, method=METHOD
    )
    ttft = histogram(
        "time_to_first_token_seconds",
        "From a call's arrival to the first message with content leaving this server; streams only.",
        buckets.TTFT_SECONDS, method=STREAM,
    )  # fmt: skip
    inter_token = histogram(
        "inter_token_latency_seconds", "Between two messages with content of one stream.",
        buckets.INTER_TOKEN_SECONDS, method=STREAM,
    )  # fmt: skip
    lag = histogram(
        "event_loop_lag_seconds", "How late the event loop is, looked at ten times a second.", buckets.DURATION_SECONDS
    )
    in_flight = gauge("requests_in_flight", "Calls that run now.")
    most = gauge("concurrency_limit_requests", "Calls that may run at once.")
    refused = counter("requests_refused", "Calls that admission control turned away.", reason=REFUSALS)
    retried = counter(
        "retried_requests",
        "Calls that a caller's gRPC had tried before (grpc-previous-rpc-attempts); among the requests.",
    )


class Gateway(Family):
    """Whom the gateway lets in."""

    services = ("gateway",)
    unauthenticated = counter(
        "unauthenticated_requests", "Calls without a valid key.", reason=("API_KEY_MISSING", "API_KEY_INVALID")
    )
    tenant_requests = counter("tenant_requests", "Calls that ended, by tenant.", tenant=TENANT, code=CODES)
    up = gauge(
        "upstream_up",
        "1 while the service behind the gateway says SERVING, else 0.",
        upstream=Open("upstream", "full name of the proto service"),
    )


class Caches(Family):
    """A service's cache."""

    services = ("tokenization", "embedding")
    lookups = counter("cache_lookups", "Entries asked for.", cache=CACHE, outcome=("hit", "miss"))
    failures = counter("cache_failures", "Times the cache did not answer.", cache=CACHE)
    duration = histogram(
        "cache_lookup_duration_seconds", "One look-up of all entries of a call.", buckets.DURATION_SECONDS, cache=CACHE
    )
    joined = counter(
        "cache_joined_computations", "Entries that waited for another call which computed them already.", cache=CACHE
    )


class Models(Family):
    """A service's calls to Triton."""

    services = ("embedding", "generation", "diffusion")
    duration = histogram(
        "model_request_duration_seconds", "One request to Triton, to its last response.",
        buckets.DURATION_SECONDS, model=MODEL,
    )  # fmt: skip
    requests = counter(
        "model_requests", "Requests to Triton that ended.", model=MODEL, outcome=("ok", "error", "cancelled")
    )
    retries = counter("model_retries", "Requests sent again to another replica of Triton; not counted as requests.")
    replicas = gauge("triton_replicas", "Replicas of Triton that DNS knows.", state=("usable", "out"))


class Tokenization(Family):
    services = ("tokenization",)
    tokens = counter("tokens", "Tokens encoded or counted.")


class Embedding(Family):
    services = ("embedding",)
    inputs = counter("inputs", "Inputs of Embed.", outcome=("ok", "error"))
    tokens = counter("tokens", "Tokens that the model read.", model=MODEL)
    reranked = counter("reranked_passages", "Passages scored.", model=MODEL)
    batch = histogram("batch_size_inputs", "Inputs that one request sends to Triton.", buckets.BATCH_SIZE, model=MODEL)
    tenant_tokens = counter("tenant_tokens", "Tokens that the model read.", tenant=TENANT)


class VectorSearch(Family):
    services = ("vector_search",)
    store = histogram("store_duration_seconds", "Calls to Milvus.", buckets.DURATION_SECONDS, operation=OPERATIONS)
    retries = counter("store_retries", "Calls to Milvus that were made again while it restarted; among its calls.")
    upserted = counter("entities_upserted", "Entities stored.")
    deleted = counter("entities_deleted", "Entities deleted.")
    queries = counter("queries", "Vectors searched for.")


class Generation(Family):
    services = ("generation",)
    input_tokens = counter("input_tokens", "Tokens of prompts.", model=MODEL)
    output_tokens = counter("output_tokens", "Tokens that the model wrote.", model=MODEL)
    tenant_tokens = counter(
        "tenant_tokens", "Tokens of prompts and answers.", tenant=TENANT, direction=("input", "output")
    )
    cancelled = counter("cancelled", "Generations whose caller went away or whose deadline passed.", model=MODEL)
    saved_tokens = counter(
        "saved_tokens", "Tokens that cancelled generations had still been allowed to write.", model=MODEL
    )
    model_ttft = histogram(
        "model_time_to_first_token_seconds",
        "From the request to Triton to its first token (queue and prefill), streamed or not.",
        buckets.TTFT_SECONDS, model=MODEL,
    )  # fmt: skip
    per_output_token = histogram(
        "time_per_output_token_seconds",
        "From the first token to the last, divided by the tokens after the first.",
        buckets.INTER_TOKEN_SECONDS, model=MODEL,
    )  # fmt: skip


class Diffusion(Family):
    services = ("diffusion",)
    images = counter("images", "Images drawn.", model=MODEL)
    upscaled = counter("upscaled_images", "Images doubled in size.", model=MODEL)
    steps = counter("steps", "Steps that the model ran.", model=MODEL)
    cancelled = counter("cancelled", "Images whose caller went away or whose deadline passed.", model=MODEL)
    saved_steps = counter("saved_steps", "Steps that cancelled images did not run.", model=MODEL)
    step_duration = histogram("step_duration_seconds", "Between two steps.", buckets.TTFT_SECONDS, model=MODEL)


class Rag(Family):
    services = ("rag",)
    stage = histogram("stage_duration_seconds", "Stages of an answer.", buckets.DURATION_SECONDS, stage=STAGES)
    optional = counter(
        "optional_stages", "Optional stages of a search, by how they ended.",
        stage=("rewrite", "expand", "hyde", "parents"), outcome=("ok", "timeout", "failed"),
    )  # fmt: skip
    answers = counter("answers", "Answers, by how they came about.", grounding=GROUNDINGS)
    citations = counter("citations", "Citations sent with answers, each checked against its passage.")
    rejected = counter("rejected_sentences", "Generated sentences that their passage did not support.")
    documents = counter("documents", "Documents of Ingest.", outcome=("ingested", "failed"))
    passages = counter("passages_stored", "Passages stored.")


FAMILIES: tuple[type[Family], ...] = (
    Server, Gateway, Caches, Models, Tokenization, Embedding, VectorSearch, Generation, Diffusion, Rag,
)  # fmt: skip


class Tenants:
    """Which label a tenant has: its own name for the first ones, so that a key file cannot blow up the series."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def label(self, tenant: str) -> str:
        if tenant not in self._seen:
            if len(self._seen) >= MOST_TENANTS:
                return OTHER
            self._seen.add(tenant)
        return tenant
