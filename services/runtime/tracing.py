"""OpenTelemetry traces, off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set.

The standard ``OTEL_*`` variables configure the exporter (OTLP over gRPC), the sampler and the resource. Spans follow
the semantic conventions of the pinned package (SCHEMA_URL): RPC, database and GenAI. No prompt, no answer and no
tenant is recorded.

A span that is entered is the parent of those begun after it in the same task. It is kept in a variable of our own: a
stream's generator may be closed from another task, where OpenTelemetry's tokens could not be given back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

import grpc
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import db_attributes as db
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import rpc_attributes as rpc
from opentelemetry.semconv.attributes import error_attributes as error
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# Also what callers name kinds and attributes by.
__all__ = [
    "SpanKind",
    "client",
    "close",
    "configure",
    "current",
    "db",
    "ended",
    "gen_ai",
    "headers",
    "on",
    "rpc",
    "server",
    "span",
    "usage",
]

# The version of the semantic conventions; that of the pinned opentelemetry-semantic-conventions (a test holds them together).
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# The codes that are a server's fault, by the RPC conventions; the others are the caller's.
SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
Value = str | int | float | bool | list[str]
_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None
_provider: object | None = None
_current: ContextVar[Span] = ContextVar("span", default=trace.INVALID_SPAN)


def configure(service: str) -> None:
    """Export the spans of this process, where an endpoint is set."""
    global _tracer, _provider
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    # Imported only where they are used: they start threads and take memory.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        own = version("genmesh")
    except PackageNotFoundError:
        own = "unknown"
    resource = Resource.create(
        {"service.name": f"genmesh-{service}", "service.namespace": "genmesh", "service.version": own}, SCHEMA_URL
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _provider = provider
    _tracer = provider.get_tracer("genmesh", own, schema_url=SCHEMA_URL)


def close() -> None:
    """Send what is left."""
    if _provider is not None:
        _provider.shutdown()  # type: ignore[attr-defined]


def on() -> bool:
    return _tracer is not None


def current() -> Span:
    """The span at hand; one that records nothing where there is none."""
    return _current.get()


def headers() -> dict[str, str]:
    """The W3C trace context of the span at hand, for a call to somebody else; empty where there is none."""
    carrier: dict[str, str] = {}
    if on():
        _propagator.inject(carrier, trace.set_span_in_context(_current.get()))
    return carrier


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    parent: Iterable[tuple[str, str | bytes]] | None = None,
) -> Iterator[Span]:
    """A span around what is done inside; ``parent``: metadata of a call that may carry the caller's trace context."""
    if _tracer is None:
        yield trace.INVALID_SPAN
        return
    before = _current.get()
    if parent is None:
        context = trace.set_span_in_context(before)
    else:
        context = _propagator.extract({key: value for key, value in parent if isinstance(value, str)})
    made = _tracer.start_span(name, context, kind, dict(attributes or {}))
    _current.set(made)
    try:
        yield made
    except (asyncio.CancelledError, GeneratorExit):
        made.set_attribute(error.ERROR_TYPE, "cancelled")
        raise
    except Exception as failure:
        made.set_attribute(error.ERROR_TYPE, type(failure).__name__)
        made.set_status(Status(StatusCode.ERROR, type(failure).__name__))
        raise
    finally:
        made.end()
        _current.set(before)


def server(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> AbstractContextManager[Span]:
    """The span of a call that arrives; ``method`` is ``package.Service/Method``. ``ended`` tells it the status."""
    return span(method, SpanKind.SERVER, {rpc.RPC_SYSTEM_NAME: "grpc", rpc.RPC_METHOD: method}, parent=metadata)


def client(method: str) -> AbstractContextManager[Span]:
    """The span of a call that this process makes; ``headers`` inside of it is what the other side continues."""
    if not on():
        return nullcontext(current())
    return span(method, SpanKind.CLIENT, {rpc.RPC_SYSTEM_NAME: "grpc", rpc.RPC_METHOD: method})


def ended(made: Span, code: grpc.StatusCode) -> None:
    """A call's status, on its span; a server's span is an error only where the fault is the server's."""
    if not made.is_recording():
        return
    made.set_attribute(rpc.RPC_RESPONSE_STATUS_CODE, code.name)
    if code.name in SERVER_FAULTS:
        made.set_attribute(error.ERROR_TYPE, code.name)
        made.set_status(Status(StatusCode.ERROR, code.name))


def usage(input_tokens: int, output_tokens: int) -> dict[str, Value]:
    """The attributes of tokens read and written."""
    return {gen_ai.GEN_AI_USAGE_INPUT_TOKENS: input_tokens, gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: output_tokens}
