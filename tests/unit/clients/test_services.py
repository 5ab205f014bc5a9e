"""What both clients share: services and methods, requests as dicts, the key and the channel's options."""

import json
import math
from collections.abc import Iterable

import pytest
from genmesh import Client
from genmesh import _services as shared
from genmesh.aio import Client as AsyncClient
from genmesh.errors import DeadlineExceeded, InvalidArgument
from genmesh.v1 import diffusion_pb2, generation_pb2, rag_pb2, tokenization_pb2, vector_search_pb2
from google.protobuf import descriptor_pool


def test_there_is_an_attribute_for_every_service_of_the_protos() -> None:
    pool = descriptor_pool.Default()
    files = {pool.FindServiceByName(name).file.name for name in shared.SERVICES.values()}
    declared = {s.full_name for file in files for s in pool.FindFileByName(file).services_by_name.values()}
    assert set(shared.SERVICES.values()) == declared
    assert len(declared) == 7


def test_methods_and_their_messages() -> None:
    found = {m.name: m for m in shared.methods("genmesh.v1.TokenizationService")}
    assert set(found) == {"Encode", "Decode", "Count", "ApplyChatTemplate", "Chunk", "FitToContext"}
    assert shared.message_class(found["Count"], output=False) is tokenization_pb2.CountRequest
    assert shared.message_class(found["Count"], output=True) is tokenization_pb2.CountResponse


def test_a_dict_becomes_a_message_with_its_nested_ones() -> None:
    request = shared.to_message(
        {"collection": "c", "vectors": [{"values": [1, 2.5]}], "mode": "SEARCH_MODE_DENSE", "score_threshold": 0},
        vector_search_pb2.SearchRequest,
    )
    assert request == vector_search_pb2.SearchRequest(
        collection="c",
        vectors=[vector_search_pb2.QueryVector(values=[1, 2.5])],
        mode=vector_search_pb2.SEARCH_MODE_DENSE,
        score_threshold=0,
    )


def test_bytes_of_a_dict_are_taken_as_they_are() -> None:
    data = bytes(range(256))
    assert shared.to_message({"image": data}, diffusion_pb2.UpscaleImageRequest).image == data


def test_a_message_is_taken_as_it_is() -> None:
    request = tokenization_pb2.CountRequest(model="m")
    assert shared.to_message(request, tokenization_pb2.CountRequest) is request


@pytest.mark.parametrize(
    ("request_", "kind", "field", "words"),
    [
        ({"txets": ["a"]}, tokenization_pb2.CountRequest, "txets", "only model, texts"),
        ({"document": {"nope": 1}}, rag_pb2.IngestRequest, "document.nope", "no such field"),
        ({5: 1}, tokenization_pb2.CountRequest, "request", "int"),
        ({"\ud800": 1}, tokenization_pb2.CountRequest, "request", "surrogate"),
        ({"texts": ["a", "b\ud800"]}, tokenization_pb2.CountRequest, "texts[1]", "surrogate"),
        ({"texts": 5}, tokenization_pb2.CountRequest, "texts", "list"),
        ({"texts": "ab"}, tokenization_pb2.CountRequest, "texts", "list"),
        ({"texts": ["a", 5]}, tokenization_pb2.CountRequest, "texts[1]", "str"),
        ({"texts": ["a", None]}, tokenization_pb2.CountRequest, "texts[1]", "str"),
        ({"texts": ["a", b"hello"]}, tokenization_pb2.CountRequest, "texts[1]", "bytes"),
        ({"model": bytearray(b"m")}, tokenization_pb2.CountRequest, "model", "bytearray"),
        ({"addSpecialTokens": b"1"}, tokenization_pb2.CountRequest, "addSpecialTokens", "bytes"),
        ({"image": "é"}, diffusion_pb2.UpscaleImageRequest, "image", "bytes"),
        ({"image": [1, 2]}, diffusion_pb2.UpscaleImageRequest, "image", "bytes"),
        ({"sampling": 5}, generation_pb2.GenerateRequest, "sampling", "SamplingParameters"),
        ({"sampling": b"x"}, generation_pb2.GenerateRequest, "sampling", "bytes"),
        ({"sampling": {"max_tokens": b"5"}}, generation_pb2.GenerateRequest, "sampling.max_tokens", "bytes"),
        ({"sampling": {"temperature": 10**400}}, generation_pb2.GenerateRequest, "sampling.temperature", "large"),
        ({"sampling": {"max_tokens": 10**5000}}, generation_pb2.GenerateRequest, "sampling.max_tokens", ""),
        ({"sampling": {"max_tokens": math.inf}}, generation_pb2.GenerateRequest, "sampling.max_tokens", "inf"),
        ({"mode": math.inf}, vector_search_pb2.SearchRequest, "mode", "inf"),
        ({"collection": "c", "entities": [{"id": "a", "vector": ["x"]}]}, vector_search_pb2.UpsertRequest,
         "entities[0].vector[0]", ""),
        ({"collection": "c", "entities": [{"id": 5}]}, vector_search_pb2.UpsertRequest, "entities[0].id", "str"),
        ({"collection": "c", "mode": "NO_SUCH"}, vector_search_pb2.SearchRequest, "mode", ""),
        ({"collection": "c", "limit": 2**40}, vector_search_pb2.SearchRequest, "limit", ""),
    ],
)  # fmt: skip
def test_a_dict_that_is_no_such_message_is_an_error_that_names_the_field(
    request_: dict, kind: type, field: str, words: str
) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.to_message(request_, kind)
    assert failure.value.reason == "INVALID_REQUEST"
    assert words in failure.value.message
    if field:
        assert [v.field for v in failure.value.field_violations] == [field]


def test_numbers_that_are_none_reach_the_server_which_names_them() -> None:
    request = {"collection": "c", "entities": [{"id": "a", "vector": [math.nan, math.inf, -math.inf, 1]}]}
    values = shared.to_message(request, vector_search_pb2.UpsertRequest).entities[0].vector
    assert math.isnan(values[0])
    assert list(values[1:]) == [math.inf, -math.inf, 1]


def nested(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


itself: dict = {}
itself["a"] = [itself]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        (5, "document.metadata"),
        ({5: 1}, "document.metadata"),
        ({"\ud800": 1}, "document.metadata"),
        ({"a": [1, b"x"]}, "document.metadata.a[1]"),
        ({"a": {"b": "\ud800"}}, "document.metadata.a.b"),
        ({"a": {1, 2}}, "document.metadata.a"),
        ({"a": 10**400}, "document.metadata.a"),
        (nested(shared.LEVELS + 1), "document.metadata"),
        (nested(3000), "document.metadata"),
        (itself, "document.metadata"),
    ],
)
def test_metadata_that_is_no_struct_is_an_error_that_names_the_field(metadata: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.to_message({"document": {"metadata": metadata}}, rag_pb2.IngestRequest)
    assert [v.field for v in failure.value.field_violations] == [field]
    assert failure.value.reason == "INVALID_REQUEST"


def test_metadata_as_deep_as_is_allowed_can_be_read_by_the_server() -> None:
    metadata = nested(shared.LEVELS) | {"b": [None, True, 1, 2.5, "x", ("y",)]}
    sent = shared.to_message({"document": {"metadata": metadata}}, rag_pb2.IngestRequest)
    assert rag_pb2.IngestRequest.FromString(sent.SerializeToString()) == sent
    assert list(sent.document.metadata["b"]) == [None, True, 1, 2.5, "x", ["y"]]


@pytest.mark.parametrize("request_", ["text", None, [], [("model", "m")], tokenization_pb2.EncodeRequest()])
def test_anything_else_is_no_request(request_: object) -> None:
    with pytest.raises(InvalidArgument, match="CountRequest") as failure:
        shared.to_message(request_, tokenization_pb2.CountRequest)  # type: ignore[arg-type]
    assert failure.value.field_violations[0].field == "request"


@pytest.mark.parametrize("requests", [None, 5, "text", {"document": {}}, rag_pb2.IngestRequest()])
def test_requests_of_a_stream_are_an_iterable(requests: object) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.check_requests(requests, Iterable)
    assert failure.value.field_violations[0].field == "request"
    shared.check_requests([], Iterable)


@pytest.mark.parametrize("timeout", [math.inf, -math.inf, math.nan, -1, 1e12, 10**400, "5", True])
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.check_timeout(timeout)
    assert failure.value.field_violations[0].field == "timeout"


def test_timeouts() -> None:
    for timeout in (None, 1, 0.001, shared.MAX_TIMEOUT):
        shared.check_timeout(timeout)
    with pytest.raises(DeadlineExceeded) as failure:
        shared.check_timeout(0.0)
    assert failure.value.reason == "DEADLINE_ALREADY_PASSED"


@pytest.mark.parametrize("key", ["é", "a\nb", "a\x00", b"gm_x", 5])
def test_a_key_that_is_no_header_is_refused(key: object) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.checked_key(key)
    assert failure.value.field_violations[0].field == "api_key"


def test_a_key_is_taken_without_the_white_space_of_its_file() -> None:
    assert shared.checked_key(" gm_x\r\n") == "gm_x"
    assert shared.checked_key(None) == shared.checked_key("\n") == ""


@pytest.mark.parametrize("target", [None, 5, b"host:1", "", " ", "dns:///", "host:1\n", "a\0b:1", "\ud800:1"])
def test_a_target_that_names_no_host_is_refused(target: object) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgument) as failure:
            kind(target)
        assert failure.value.field_violations[0].field == "target"


def test_credentials_are_those_of_grpc() -> None:
    with pytest.raises(InvalidArgument, match="credentials"):
        Client("host:1", credentials="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        (5, "metadata"),
        ("ab", "metadata"),
        ({"k": "v"}, "metadata"),
        (["kv"], "metadata[0]"),
        ([("a", "b"), ("k",)], "metadata[1]"),
        ([("Upper", "x")], "metadata[0]"),
        ([("", "x")], "metadata[0]"),
        ([(5, "x")], "metadata[0]"),
        ([("k", 5)], "metadata[0]"),
        ([("k", "é")], "metadata[0]"),
        ([("k", "x\n")], "metadata[0]"),
        ([("k", b"x")], "metadata[0]"),
        ([("k-bin", "x")], "metadata[0]"),
    ],
)
def test_metadata_that_is_no_header_is_refused(metadata: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        shared.with_key(metadata, "k")
    assert failure.value.field_violations[0].field == field


def test_the_key_travels_beside_the_callers_metadata() -> None:
    assert shared.with_key(None, "k") == (("authorization", "Bearer k"),)
    assert shared.with_key([("a", "b")], "k") == (("a", "b"), ("authorization", "Bearer k"))
    assert shared.with_key([("a", "b")], None) == (("a", "b"),)
    assert shared.with_key(iter([["a-bin", b"\xff"]]), None) == (("a-bin", b"\xff"),)
    assert shared.with_key(None, "") == ()


@pytest.mark.parametrize("retries", [True, False])
def test_channel_options(retries: bool) -> None:
    options = dict(shared.channel_options(retries))
    assert options["grpc.enable_retries"] == int(retries)
    assert options["grpc.max_receive_message_length"] == shared.MESSAGE_LIMIT
    assert json.loads(options["grpc.service_config"])["methodConfig"]
