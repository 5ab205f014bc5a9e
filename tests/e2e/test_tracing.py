"""Traces from a real cluster, read by a real OTLP receiver (gRPC for the services, HTTP for Triton)."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.semconv.schemas import Schemas

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.conftest import MODELS, TRITON_PYTHON

SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2
# Whose spans an answer has.
SERVICES = {
    f"genmesh-{name}" for name in ("gateway", "rag", "embedding", "vector_search", "tokenization", "generation")
}


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
    seconds: float


def value(found: Any) -> Any:
    kind = found.WhichOneof("value")
    return (
        [value(v) for v in found.array_value.values]
        if kind == "array_value"
        else getattr(found, kind)
        if kind
        else None
    )


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """What was exported, by OTLP."""

    spans: list[Seen] = field(default_factory=list)

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            of = {a.key: value(a.value) for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Seen(
                            str(of.get("service.name")), span.name, span.kind, span.trace_id.hex(), span.span_id.hex(),
                            span.parent_span_id.hex(), span.status.code == ERROR, scope.schema_url,
                            {a.key: value(a.value) for a in span.attributes},
                            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        )
                    )  # fmt: skip

    def Export(self, request: Any, context: Any) -> Any:
        self.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def from_json(body: bytes) -> trace_service_pb2.ExportTraceServiceRequest:
    """OTLP's JSON has ids in hexadecimal, where protobuf's own has base64."""
    found = json.loads(body)
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64encode(bytes.fromhex(span.get(name, ""))).decode()
    request = trace_service_pb2.ExportTraceServiceRequest()
    return json_format.ParseDict(found, request, ignore_unknown_fields=True)


def http_receiver(receiver: Receiver) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Type"] == "application/x-protobuf":
                receiver.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                receiver.take(from_json(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Receiver]]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = http_receiver(receiver)
    cluster = Cluster(Layout(tmp_path_factory.mktemp("traced"), MODELS, TRITON_PYTHON), Ports.free())
    key = "gm_" + secrets.token_urlsafe(24)
    cluster.add_key("alpha", key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "300")
        patch.setenv("TRITON_OTLP_HTTP_URL", f"http://127.0.0.1:{web.server_address[1]}/v1/traces")
        cluster.start(lambda text: None)
    try:
        with Client(cluster.target, api_key=key) as client:
            yield client, receiver
    finally:
        cluster.stop()
        web.shutdown()
        server.stop(0)


def spans_of(receiver: Receiver, trace: str, enough: Any) -> list[Seen]:
    """The spans of a trace, once there are enough."""
    end = time.monotonic() + 15
    while True:
        found = [span for span in list(receiver.spans) if span.trace == trace]
        if enough(found):
            return found
        assert time.monotonic() < end, [(s.service, s.name, s.kind) for s in found]
        time.sleep(0.1)


def hop(span: Seen) -> bool:
    """Whether it is a service's span of a call that arrived."""
    return span.kind == SERVER and span.service != "genmesh-triton"


def whole_answer(spans: list[Seen]) -> bool:
    return {s.service for s in spans if hop(s)} >= SERVICES and "rag generate" in {s.name for s in spans}


def two_servers(spans: list[Seen]) -> bool:
    return sum(map(hop, spans)) == 2


def parent_of() -> tuple[str, tuple[tuple[str, str], ...]]:
    trace = secrets.token_hex(16)
    return trace, (("traceparent", f"00-{trace}-{secrets.token_hex(8)}-01"),)


def test_one_trace_shows_an_answers_stages_with_their_tokens(traced) -> None:
    client, receiver = traced
    document = {"id": "d", "title": "Tower", "text": "The lamp of the tower was lit by Ada Brook in 1911."}
    list(client.rag.Ingest(iter([{"collection": "traced", "document": document}])))
    trace, metadata = parent_of()
    answer = client.rag.Answer(
        {"collection": "traced", "question": "Who lit the lamp of the tower?"}, metadata=metadata
    )
    found = spans_of(
        receiver,
        trace,
        whole_answer,
    )
    by_id = {span.id: span for span in found}

    def path(span: Seen) -> list[tuple[str, str]]:
        up = []
        while span is not None:
            up.append((span.service.removeprefix("genmesh-"), span.name))
            span = by_id.get(span.parent)
        return up[::-1]

    stages = {span.name: span for span in found if span.name.startswith("rag ")}
    assert set(stages) == {f"rag {stage}" for stage in ("embed", "search", "rerank", "fit", "check", "generate")}
    answering = [("gateway", "genmesh.v1.RagService/Answer")] * 2 + [("rag", "genmesh.v1.RagService/Answer")]
    for stage, span in stages.items():
        assert path(span) == [*answering, ("rag", stage)]
    (chat,) = [span for span in found if span.name == "chat generator"]
    chatting = "genmesh.v1.GenerationService/StreamChat"
    assert path(chat) == [*answering, ("rag", "rag generate"), ("rag", chatting), ("generation", chatting),
                          ("generation", "chat generator")]  # fmt: skip
    for span in (stages["rag generate"], chat):
        assert span.attributes["gen_ai.usage.input_tokens"] == answer.usage.input_tokens
        assert span.attributes["gen_ai.usage.output_tokens"] == answer.usage.output_tokens
    assert chat.kind == CLIENT
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == "generator"
    assert chat.attributes["gen_ai.response.model"].startswith("generator@")
    assert chat.attributes["gen_ai.response.finish_reasons"] in (["stop"], ["length"])
    assert 0 < chat.attributes["gen_ai.response.time_to_first_chunk"] <= chat.seconds
    (milvus,) = [span for span in found if span.attributes.get("db.system.name") == "milvus" and span.name == "search"]
    assert milvus.attributes["db.operation.name"] == "search"
    conventions = "https://opentelemetry.io/schemas/1.44.0"
    assert {span.schema for span in found if span.service != "genmesh-triton"} == {conventions}
    assert list(Schemas)[-1].value == conventions  # whose names the services take from the package
    assert not any(span.error for span in found)
    assert not any("Ada Brook" in str(span.attributes) or "lamp" in str(span.attributes) for span in found)


def test_triton_continues_the_trace(traced) -> None:
    client, receiver = traced
    # Triton exports each 5 s, and what a busy machine makes it lose it does not send again.
    for _ in range(4):
        trace, metadata = parent_of()
        client.embedding.Embed({"inputs": [f"traced {secrets.token_hex(4)}"]}, metadata=metadata)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            found = [span for span in list(receiver.spans) if span.trace == trace]
            if {"InferRequest", "embeddings embedder"} <= {span.name for span in found}:
                ours = {span.id for span in found if span.name == "embeddings embedder"}
                requests = {span.name: span.parent for span in found if span.service == "genmesh-triton"}
                assert ours & set(requests.values()), (ours, requests)
                return
            time.sleep(0.1)
    of_triton = [span.trace for span in receiver.spans if span.service == "genmesh-triton"]
    pytest.fail(f"no span of Triton in the trace; {len(of_triton)} of others, {len(set(of_triton))} traces")


def test_a_refused_call_is_the_callers_fault_on_its_span(traced) -> None:
    client, receiver = traced
    trace, metadata = parent_of()
    with pytest.raises(InvalidArgument):
        client.tokenization.Count({"texts": []}, metadata=metadata)
    found = spans_of(receiver, trace, two_servers)
    for span in found:
        assert not span.error or span.kind == CLIENT
        if hop(span):
            assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"


def test_a_cancelled_stream_ends_its_spans(traced) -> None:
    client, receiver = traced
    trace, metadata = parent_of()
    stream = client.generation.StreamGenerate(
        {"prompt": "The river", "sampling": {"max_tokens": 1900, "ignore_eos": True}}, metadata=metadata
    )
    for _, _message in zip(range(3), stream, strict=False):
        pass
    stream.cancel()
    found = spans_of(receiver, trace, two_servers)
    assert {s.attributes["rpc.response.status_code"] for s in found if hop(s)} == {"CANCELLED"}
    (written,) = [span for span in found if span.name == "text_completion generator"]
    assert written.attributes["error.type"] == "cancelled"
    assert written.attributes["gen_ai.usage.output_tokens"] >= 3
