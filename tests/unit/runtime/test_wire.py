"""The path of the field whose bytes are no UTF-8, in messages of every shape."""

import pytest
from genmesh.v1 import embedding_pb2, rag_pb2, tokenization_pb2, vector_search_pb2
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.wire import broken_utf8

MARK, BROKEN = "MARK", b"\xff\xfeRK"


def corrupted(message: Message) -> bytes:
    """The message on the wire, with the string MARK replaced by bytes of the same length that are no UTF-8."""
    data = message.SerializeToString()
    assert data.count(MARK.encode()) == 1
    data = data.replace(MARK.encode(), BROKEN)
    with pytest.raises(DecodeError):
        type(message).FromString(data)
    return data


def with_metadata() -> vector_search_pb2.UpsertRequest:
    request = vector_search_pb2.UpsertRequest(
        collection="c", entities=[vector_search_pb2.Entity(id="a", vector=[1, 2])]
    )
    request.entities[0].metadata.update({"tags": ["x", MARK]})
    return request


CASES = [
    (tokenization_pb2.CountRequest(model=MARK), "model"),
    (tokenization_pb2.CountRequest(model="m", texts=["a", "é", MARK, "b"], add_special_tokens=True), "texts[2]"),
    (
        vector_search_pb2.UpsertRequest(
            collection="c", entities=[vector_search_pb2.Entity(id=i, vector=[0.5] * 3) for i in ("a", "b", MARK)]
        ),
        "entities[2].id",
    ),
    (embedding_pb2.EmbedStreamRequest(request=embedding_pb2.EmbedRequest(inputs=["a", MARK])), "request.inputs[1]"),
    (rag_pb2.IngestRequest(document=rag_pb2.Document(id="d", text=MARK)), "document.text"),
    (with_metadata(), "entities[0].metadata.fields[0].value.list_value.values[1].string_value"),
]


@pytest.mark.parametrize(("message", "path"), CASES, ids=[path for _, path in CASES])
def test_names_the_field_at_fault(message: Message, path: str) -> None:
    assert broken_utf8(corrupted(message), message.DESCRIPTOR) == path


@pytest.mark.parametrize("message", [m for m, _ in CASES], ids=[path for _, path in CASES])
def test_finds_nothing_in_a_good_message(message: Message) -> None:
    assert broken_utf8(message.SerializeToString(), message.DESCRIPTOR) is None


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8), data=st.data())
def test_counts_the_elements_of_a_repeated_field(texts: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(texts) - 1))
    before, after = (tokenization_pb2.CountRequest(texts=part).SerializeToString() for part in (texts[:at], texts[at:]))
    wire = before + b"\x12\x01\xff" + after
    assert broken_utf8(wire, tokenization_pb2.CountRequest.DESCRIPTOR) == f"texts[{at}]"


@given(st.binary(max_size=200))
def test_random_bytes_never_crash_it(data: bytes) -> None:
    found = broken_utf8(data, rag_pb2.IngestRequest.DESCRIPTOR)
    assert found is None or found.startswith(("collection", "document."))


@given(st.binary(max_size=12), st.integers(0, 60))
def test_a_good_message_with_random_bytes_in_it_never_crashes_it(noise: bytes, at: int) -> None:
    data = with_metadata().SerializeToString()
    found = broken_utf8(data[:at] + noise + data[at:], vector_search_pb2.UpsertRequest.DESCRIPTOR)
    assert found is None or found.startswith(("collection", "entities["))


@pytest.mark.parametrize("data", [b"\x0b", b"\x08", b"\xff" * 12, b"\x0a\xff", b"\x0f\x01"])
def test_broken_wire_names_no_field(data: bytes) -> None:
    assert broken_utf8(data, tokenization_pb2.CountRequest.DESCRIPTOR) is None


def test_unknown_fields_are_passed_over() -> None:
    unknown = b"\xfa\x07\x02\xff\xfe" + b"\xf9\x07" + b"\xff" * 8 + b"\xfd\x07" + b"\xff" * 4 + b"\xf8\x07\x96\x01"
    assert broken_utf8(unknown, tokenization_pb2.CountRequest.DESCRIPTOR) is None
    assert broken_utf8(unknown + b"\x0a\x01\xff", tokenization_pb2.CountRequest.DESCRIPTOR) == "model"
