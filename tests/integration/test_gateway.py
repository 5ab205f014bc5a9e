"""The gateway: keys, tenants that cannot be forged, raw and broken messages, deadlines, reflection, health."""

from __future__ import annotations

import secrets
from contextlib import suppress

import grpc
import pytest
from genmesh import Client
from genmesh._services import SERVICES
from genmesh.errors import (
    DeadlineExceeded,
    GenmeshError,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    from_rpc_error,
)
from genmesh.v1 import common_pb2, embedding_pb2, generation_pb2, tokenization_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.local.ports import SERVICES as PARTS
from tests.waiting import until

COUNT = "/genmesh.v1.TokenizationService/Count"


def call(
    channel: grpc.Channel, path: str, data: bytes, key: str | None, *more: tuple[str, str], timeout: float = 60
) -> bytes:
    metadata = [*([("authorization", f"Bearer {key}")] if key else []), *more]
    try:
        return channel.unary_unary(path)(data, metadata=metadata, timeout=timeout)
    except grpc.RpcError as failure:
        raise from_rpc_error(failure) from None


def error(channel: grpc.Channel, path: str, data: bytes, key: str | None, **more):
    with pytest.raises(GenmeshError) as failure:
        call(channel, path, data, key, **more)
    return failure.value


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "API_KEY_MISSING"), ("gm_wrong", "API_KEY_INVALID"), ("", "API_KEY_MISSING")]
)
def test_without_a_valid_key_nothing_is_answered(raw: grpc.Channel, key: str | None, reason: str) -> None:
    found = error(raw, COUNT, tokenization_pb2.CountRequest(texts=["x"]).SerializeToString(), key)
    assert isinstance(found, Unauthenticated)
    assert found.reason == reason


def test_x_api_key_works_too(running, raw: grpc.Channel) -> None:
    data = tokenization_pb2.CountRequest(texts=["x"]).SerializeToString()
    assert call(raw, COUNT, data, None, ("x-api-key", running.alpha))


def test_a_client_cannot_forge_its_tenant(running, raw: grpc.Channel) -> None:
    """Beta sends alpha's identity along; its text is still a miss, since alpha's cache entry is alpha's."""
    from services.runtime import identity

    text = f"forged {secrets.token_hex(6)}"
    path = "/genmesh.v1.EmbeddingService/Embed"
    data = embedding_pb2.EmbedRequest(inputs=[text]).SerializeToString()
    call(raw, path, data, running.alpha)
    secret = (running.cluster.layout.run / "identity-secret").read_text().encode()
    forged = (identity.IDENTITY, identity.sign(secret, "alpha"))
    answer = embedding_pb2.EmbedResponse.FromString(call(raw, path, data, running.beta, forged))
    assert answer.cache.status == common_pb2.CACHE_STATUS_MISS


@pytest.mark.parametrize("token", ["", "616c706861.1700000000.deadbeef"])
def test_a_service_takes_no_calls_that_the_gateway_did_not_sign(running, token: str) -> None:
    metadata = [("genmesh-identity", token), ("genmesh-tenant", "alpha")] if token else []
    with grpc.insecure_channel(f"127.0.0.1:{running.cluster.ports['tokenization']}") as channel:
        data = tokenization_pb2.CountRequest(texts=["x"]).SerializeToString()
        with pytest.raises(grpc.RpcError) as failure:
            channel.unary_unary(COUNT)(data, metadata=metadata, timeout=60)
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_a_key_is_let_in_and_shut_out_without_a_restart(running, raw: grpc.Channel) -> None:
    key, data = "gm_late", tokenization_pb2.CountRequest(texts=["x"]).SerializeToString()
    before = running.cluster.layout.keys_file.read_text()

    def let_in() -> bool:
        with suppress(Unauthenticated):
            return bool(call(raw, COUNT, data, key))
        return False

    running.cluster.add_key("alpha", key)
    until(let_in)
    running.cluster.layout.keys_file.write_text(before)
    until(lambda: not let_in())
    assert error(raw, COUNT, data, key).reason == "API_KEY_INVALID"


def test_broken_utf8_names_its_field(running, raw: grpc.Channel) -> None:
    data = b"\x12\x02ok\x12\x03\xff\xfe\xfd"  # texts: "ok", then three bytes that are no UTF-8
    found = error(raw, COUNT, data, running.alpha)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UTF8")
    assert found.field_violations[0].field == "texts[1]"


def test_a_message_that_is_none(running, raw: grpc.Channel) -> None:
    found = error(raw, COUNT, b"\xff\xff\xff\xff", running.alpha)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


def test_a_message_over_the_limit(running, raw: grpc.Channel) -> None:
    data = tokenization_pb2.CountRequest(texts=["x" * 900_000] * 10).SerializeToString()
    found = error(raw, COUNT, data, running.alpha)
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert int(found.metadata["limit_bytes"]) < len(data)
    huge = error(raw, COUNT, b"\x12" + b"\x80" * 0 + b"\x80\x80\x80\x20" + b"x" * (64 * 2**20), running.alpha)
    assert huge.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(raw, COUNT, tokenization_pb2.CountRequest(texts=["x"]).SerializeToString(), running.alpha)


def test_an_unknown_service_or_method(running, raw: grpc.Channel) -> None:
    for path in ("/genmesh.v1.NoService/X", "/genmesh.v1.TokenizationService/NoMethod", "/nonsense"):
        found = error(raw, path, b"", running.alpha)
        assert (found.code, found.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")
        assert path[1:] in found.message
        assert found.request_id


def test_a_passed_deadline_is_refused(client) -> None:
    with pytest.raises(DeadlineExceeded):
        client.tokenization.Count({"texts": ["x"]}, timeout=0.0)


def test_reflection_and_health_on_every_server(running) -> None:
    for part in PARTS:
        with grpc.insecure_channel(f"127.0.0.1:{running.cluster.ports[part]}") as channel:
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            answer = next(iter(reflection.ServerReflectionInfo(iter([request]), timeout=60)))
            listed = {s.name for s in answer.list_services_response.service}
            own = {name for name in listed if name.startswith("genmesh.")}
            assert own == (set(SERVICES.values()) if part == "gateway" else own)
            assert own
            health = health_pb2_grpc.HealthStub(channel)
            for name in [*own, ""]:
                state = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status
                assert state == health_pb2.HealthCheckResponse.SERVING, (part, name)


def test_a_generic_client_can_call_by_reflection(running) -> None:
    """What grpcurl does: fetch the descriptor from the server, build the message, call."""
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    with grpc.insecure_channel(running.target) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        pool, wanted = descriptor_pool.DescriptorPool(), ["genmesh/v1/tokenization.proto"]
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="genmesh.v1.TokenizationService")
        answer = next(iter(reflection.ServerReflectionInfo(iter([request]), timeout=60)))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(f)
            for f in answer.file_descriptor_response.file_descriptor_proto
        ]
        for file in sorted(files, key=lambda f: len(f.dependency)):
            pool.Add(file)
        method = pool.FindServiceByName("genmesh.v1.TokenizationService").methods_by_name["Count"]
        assert wanted[0] in [f.name for f in files]
        message = message_factory.GetMessageClass(method.input_type)()
        json_format.ParseDict({"texts": ["one two three"]}, message)
        data = call(channel, COUNT, message.SerializeToString(), running.alpha)
        response = message_factory.GetMessageClass(method.output_type).FromString(data)
        assert response.total >= 3


def test_trailing_metadata_and_request_ids_pass(running, raw: grpc.Channel) -> None:
    data = tokenization_pb2.CountRequest(texts=["x"]).SerializeToString()
    _, inner = raw.unary_unary(COUNT).with_call(
        data, metadata=[("authorization", f"Bearer {running.alpha}")], timeout=60
    )
    assert not [k for k, _ in inner.trailing_metadata() if k.startswith("genmesh-")]


def test_every_response_has_its_request_id_and_the_log_too(running, raw: grpc.Channel) -> None:
    key, asked = ("authorization", f"Bearer {running.alpha}"), secrets.token_hex(8)
    data = tokenization_pb2.CountRequest(texts=["x"]).SerializeToString()
    for more in ((), (("x-request-id", asked),)):
        _, unary = raw.unary_unary(COUNT).with_call(data, metadata=(key, *more), timeout=60)
        stream = raw.unary_stream("/genmesh.v1.GenerationService/StreamGenerate")(
            generation_pb2.GenerateRequest(prompt="x", sampling={"max_tokens": 1}).SerializeToString(),
            metadata=(key, *more), timeout=60,
        )  # fmt: skip
        list(stream)
        for found in (unary.trailing_metadata(), stream.initial_metadata(), stream.trailing_metadata()):
            (request_id,) = (value for name, value in found if name == "x-request-id")
            assert request_id == asked if more else len(request_id) == 32
    for key_ in (running.alpha, None):
        assert error(raw, COUNT, b"\xff", key_).request_id
    with running.client() as client, pytest.raises(InvalidArgument) as failure:
        client.tokenization.Count({"texts": []})
    assert len(failure.value.request_id) == 32


@pytest.mark.parametrize("attempt", range(3))
def test_a_status_fits_into_headers_whatever_was_sent(client: Client, attempt: int) -> None:
    for method, request, kind in (
        (client.tokenization.Encode, {"model": "😀" * 5000, "texts": ["a"]}, NotFound),
        (client.vector_search.GetCollection, {"collection": "漢" * 5000}, InvalidArgument),
        (client.generation.Chat, {"messages": [{"role": "x" * 1000, "content": "a"}] * 20}, InvalidArgument),
        (client.embedding.Embed, {"model": "%" * 9000, "inputs": ["a"]}, NotFound),
        (client.rag.Retrieve, {"question": "x", "filter": "é" * 3000}, InvalidArgument),
        (client.rag.DeleteDocument, {"collection": "gone", "document_id": "é%" * 66}, NotFound),
    ):
        with pytest.raises(kind) as failure:
            method(request)
        assert failure.value.reason
        assert len(failure.value.message) <= 1000


def test_a_call_that_ends_before_it_is_read_keeps_its_status(running, raw: grpc.Channel) -> None:
    """Many times, since a write that fails races with the status that tells why."""
    for _ in range(50):
        stream = raw.stream_stream("/genmesh.v1.VectorSearchService/NoMethod")(
            iter([b"x" * 1000] * 20), metadata=[("authorization", f"Bearer {running.alpha}")], timeout=60
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
