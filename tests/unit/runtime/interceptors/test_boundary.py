"""The decoder that never fails, and which messages of a stream have content."""

import grpc
import pytest
from genmesh.v1 import generation_pb2, rag_pb2, tokenization_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import GenmeshError, Violation
from services.runtime.interceptors.boundary import Undecodable, content_marks, decoder

LIMIT = 1024
decode = decoder(tokenization_pb2.CountRequest, LIMIT)


def error_of(data: bytes) -> GenmeshError:
    found = decode(data)
    assert isinstance(found, Undecodable)
    return found.error


def test_decodes_a_good_message() -> None:
    request = tokenization_pb2.CountRequest(model="m", texts=["é", "😀"])
    assert decode(request.SerializeToString()) == request


def test_a_message_may_have_just_the_limit() -> None:
    request = tokenization_pb2.CountRequest(texts=["x" * (LIMIT - 3)])
    data = request.SerializeToString()
    assert len(data) == LIMIT
    assert decode(data) == request
    error = error_of(data + b"\x12\x00")
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert error.metadata == {"limit_bytes": "1024"}
    assert "1026" in error.message


def test_a_malformed_message_names_what_it_should_be() -> None:
    error = error_of(b"\x0a\xff\xff")
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert "genmesh.v1.CountRequest" in error.message


def test_bad_utf8_names_its_field() -> None:
    error = error_of(b"\x12\x01a\x12\x02\xc3\x28")
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UTF8")
    assert error.violations == (Violation("texts[1]", "is not valid UTF-8"),)


@given(st.binary(max_size=300))
def test_never_raises(data: bytes) -> None:
    found = decode(data)
    assert isinstance(found, tokenization_pb2.CountRequest) or found.error.reason in (
        "MALFORMED_MESSAGE",
        "INVALID_UTF8",
    )


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (generation_pb2.StreamChatResponse(text="a"), True),
        (generation_pb2.StreamChatResponse(), False),
        (rag_pb2.StreamAnswerResponse(text=rag_pb2.AnswerText(text="a")), True),
        (rag_pb2.StreamAnswerResponse(text=rag_pb2.AnswerText()), True),
        (rag_pb2.StreamAnswerResponse(stage=rag_pb2.AnswerStage(stage="embed")), False),
    ],
)
def test_field_one_marks_content(message: Message, content: bool) -> None:
    assert content_marks(type(message))(message) is content
