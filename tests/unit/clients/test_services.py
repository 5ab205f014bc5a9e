"""What both clients share: services and methods, requests as dicts, the key and the channel's options."""

import json
import math

import pytest
from genmesh import _services as shared
from genmesh.errors import InvalidArgument
from genmesh.v1 import diffusion_pb2, tokenization_pb2, vector_search_pb2
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
        ({"txets": ["a"]}, tokenization_pb2.CountRequest, "", "txets"),
        ({"texts": ["a", "b\ud800"]}, tokenization_pb2.CountRequest, "texts[1]", "surrogate"),
        ({"texts": 5}, tokenization_pb2.CountRequest, "", "texts"),
        ({"texts": ["a", 5]}, tokenization_pb2.CountRequest, "texts", ""),
        ({"collection": "c", "entities": [{"id": "a", "vector": ["x"]}]}, vector_search_pb2.UpsertRequest,
         "entities[0].vector[0]", ""),
        ({"collection": "c", "entities": [{"id": 5}]}, vector_search_pb2.UpsertRequest, "entities.id", ""),
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


@pytest.mark.parametrize("request_", ["text", None, [("model", "m")], tokenization_pb2.EncodeRequest()])
def test_anything_else_is_a_type_error(request_: object) -> None:
    with pytest.raises(TypeError, match="CountRequest"):
        shared.to_message(request_, tokenization_pb2.CountRequest)  # type: ignore[arg-type]


def test_the_key_travels_beside_the_callers_metadata() -> None:
    assert shared.with_key(None, "k") == (("authorization", "Bearer k"),)
    assert shared.with_key([("a", "b")], "k") == (("a", "b"), ("authorization", "Bearer k"))
    assert shared.with_key([("a", "b")], None) == (("a", "b"),)
    assert shared.with_key(None, "") == ()


@pytest.mark.parametrize("retries", [True, False])
def test_channel_options(retries: bool) -> None:
    options = dict(shared.channel_options(retries))
    assert options["grpc.enable_retries"] == int(retries)
    assert options["grpc.max_receive_message_length"] == shared.MESSAGE_LIMIT
    assert json.loads(options["grpc.service_config"])["methodConfig"]
