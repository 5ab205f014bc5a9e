"""An OTLP receiver for traces: gRPC for the services, HTTP for Triton.

It keeps only the traces that a test begins with ``trace_of_its_own``, so all other tests of the shared cluster cost
nothing: services do not sample calls that bring no sampled trace, and spans of Triton are dropped unread.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

ERROR = 2


@dataclass(frozen=True)
class Seen:
    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    error: bool
    schema: str
    attributes: dict[str, Any]


def value(found: Any) -> Any:
    kind = found.WhichOneof("value")
    if kind == "array_value":
        return [value(v) for v in found.array_value.values]
    return getattr(found, kind) if kind else None


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """The spans of the wanted traces, and the environment that makes a cluster send them."""

    environment: dict[str, str] = field(default_factory=dict)
    spans: dict[str, list[Seen]] = field(default_factory=dict)  # by trace

    def trace_of_its_own(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The id of a new trace, and the metadata of a call that belongs to it."""
        trace = secrets.token_hex(16)
        self.spans[trace] = []
        return trace, (("traceparent", f"00-{trace}-{secrets.token_hex(8)}-01"),)

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            of = {a.key: value(a.value) for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if (kept := self.spans.get(span.trace_id.hex())) is not None:
                        kept.append(
                            Seen(
                                str(of.get("service.name")), span.name, span.kind, span.trace_id.hex(), span.span_id.hex(),
                                span.parent_span_id.hex(), span.status.code == ERROR, scope.schema_url,
                                {a.key: value(a.value) for a in span.attributes},
                            )
                        )  # fmt: skip

    def Export(self, request: Any, context: Any) -> Any:
        self.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def from_json(body: bytes) -> trace_service_pb2.ExportTraceServiceRequest:
    """OTLP's JSON has ids in hexadecimal; protobuf's own JSON has them in base64."""
    found = json.loads(body)
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64encode(bytes.fromhex(span.get(name, ""))).decode()
    request = trace_service_pb2.ExportTraceServiceRequest()
    return json_format.ParseDict(found, request, ignore_unknown_fields=True)


def http_server(receiver: Receiver) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not receiver.spans:
                pass  # no test wants a trace yet
            elif self.headers["Content-Type"] == "application/x-protobuf":
                receiver.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                receiver.take(from_json(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = http_server(receiver)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    receiver.environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "300",
        # Only calls that bring a sampled trace are recorded.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "TRITON_OTLP_HTTP_URL": f"http://127.0.0.1:{web.server_address[1]}/v1/traces",
    }
    try:
        yield receiver
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
        server.stop(0).wait()
