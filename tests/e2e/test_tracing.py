"""Traces from a real cluster, read by a real OTLP receiver (gRPC for the services, HTTP for Triton)."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable

import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument
from opentelemetry.semconv.schemas import Schemas

from tests.tracing_receiver import Receiver, Seen

SERVER, CLIENT = 2, 3
# Whose spans an answer has.
SERVICES = {
    f"genmesh-{name}" for name in ("gateway", "rag", "embedding", "vector_search", "tokenization", "generation")
}


def spans_of(receiver: Receiver, trace: str, enough: Callable[[list[Seen]], bool], seconds: float = 60) -> list[Seen]:
    """The spans of a trace, once there are enough."""
    end = time.monotonic() + seconds
    while not enough(found := list(receiver.spans[trace])):
        assert time.monotonic() < end, [(s.service, s.name, s.kind) for s in found]
        time.sleep(0.1)
    return found


def hop(span: Seen) -> bool:
    """Whether it is a service's span of a call that arrived."""
    return span.kind == SERVER and span.service != "genmesh-triton"


def whole_answer(spans: list[Seen]) -> bool:
    ours = [s for s in spans if s.service != "genmesh-triton"]
    # All parents are there but the caller's.
    roots = {s.parent for s in ours} - {s.id for s in ours}
    return {s.service for s in ours if hop(s)} >= SERVICES and len(roots) == 1


def two_servers(spans: list[Seen]) -> bool:
    return sum(map(hop, spans)) == 2


def written(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.name == "text_completion generator"]


def test_one_trace_shows_an_answers_stages_with_their_tokens(
    client: Client, receiver: Receiver, collection: str
) -> None:
    document = {"id": "d", "title": "Tower", "text": "The lamp of the tower was lit by Ada Brook in 1911."}
    list(client.rag.Ingest(iter([{"collection": collection, "document": document}])))
    trace, metadata = receiver.trace_of_its_own()
    question = {"collection": collection, "question": "Who lit the lamp of the tower?"}
    answer = client.rag.Answer(question, metadata=metadata)
    found = spans_of(receiver, trace, whole_answer)
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
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] > 0
    milvus = [span for span in found if span.attributes.get("db.system.name") == "milvus" and span.name == "search"]
    assert [span.attributes["db.operation.name"] for span in milvus] == ["search"] * 2  # by its vector and its words
    assert all(path(span)[:4] == [*answering, ("rag", "rag search")] for span in milvus)
    conventions = "https://opentelemetry.io/schemas/1.44.0"
    assert {span.schema for span in found if span.service != "genmesh-triton"} == {conventions}
    assert list(Schemas)[-1].value == conventions  # whose names the services take from the package
    assert not any(span.error for span in found)
    assert not any("Ada Brook" in str(span.attributes) or "lamp" in str(span.attributes) for span in found)


def test_stages_that_are_asked_for_are_in_the_trace(client: Client, receiver: Receiver, collection: str) -> None:
    document = {"id": "d", "text": "The lamp of the tower was lit by Ada Brook in 1911."}
    list(client.rag.Ingest(iter([{"collection": collection, "document": document}])))
    trace, metadata = receiver.trace_of_its_own()
    question = {
        "collection": collection,
        "question": "Who lit the lamp?",
        "expansions": 1,
        "hyde": True,
        "parents": True,
    }
    found = client.rag.Retrieve(question, metadata=metadata)
    spans = spans_of(receiver, trace, lambda spans: any(span.name == "rag parents" for span in spans))
    stages = {span.name: span for span in spans if span.name.startswith("rag ")}
    assert set(stages) == {f"rag {stage}" for stage in ("expand", "hyde", "embed", "search", "rerank", "parents")}
    for query in found.queries:
        attributes = stages[f"rag {query.stage}"].attributes
        assert attributes["gen_ai.usage.output_tokens"] == query.usage.output_tokens > 0


def test_triton_continues_the_trace(client: Client, receiver: Receiver) -> None:
    wanted = {"InferRequest", "embeddings embedder"}
    # Triton exports every 5 s, and a span that it could not export is lost: another call may be needed.
    for seconds in (15, 30, 60):
        trace, metadata = receiver.trace_of_its_own()
        client.embedding.Embed({"inputs": [f"traced {secrets.token_hex(4)}"]}, metadata=metadata)
        with contextlib.suppress(AssertionError):
            found = spans_of(receiver, trace, lambda spans: wanted <= {span.name for span in spans}, seconds)
            break
    else:
        pytest.fail("no span of Triton in three traces")
    ours = {span.id for span in found if span.name == "embeddings embedder"}
    parents = {span.name: span.parent for span in found if span.service == "genmesh-triton"}
    assert ours & set(parents.values()), (ours, parents)


def test_a_refused_call_is_the_callers_fault_on_its_span(client: Client, receiver: Receiver) -> None:
    trace, metadata = receiver.trace_of_its_own()
    with pytest.raises(InvalidArgument):
        client.tokenization.Count({"texts": []}, metadata=metadata)
    found = spans_of(receiver, trace, two_servers)
    for span in found:
        assert not span.error or span.kind == CLIENT
        if hop(span):
            assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"


def test_a_cancelled_stream_ends_its_spans(client: Client, receiver: Receiver) -> None:
    trace, metadata = receiver.trace_of_its_own()
    stream = client.generation.StreamGenerate(
        {"prompt": "The river", "sampling": {"max_tokens": 1900, "ignore_eos": True}}, metadata=metadata
    )
    for _, _message in zip(range(3), stream, strict=False):
        pass
    stream.cancel()
    found = spans_of(receiver, trace, lambda spans: two_servers(spans) and bool(written(spans)))
    assert {s.attributes["rpc.response.status_code"] for s in found if hop(s)} == {"CANCELLED"}
    (span,) = written(found)
    assert span.attributes["error.type"] == "cancelled"
    assert span.attributes["gen_ai.usage.output_tokens"] >= 3
