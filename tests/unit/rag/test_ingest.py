"""Which documents are refused before any work."""

import math
from typing import Any

import pytest
from genmesh.v1 import rag_pb2 as pb

from services.rag import ingest
from services.rag.ingest import document_fault


def nested(levels: int) -> dict[str, Any]:
    found: Any = "x"
    for level in range(levels):
        found = {"a": found} if level % 2 == 0 else [found]
    return found if isinstance(found, dict) else {"a": found}


def document(**fields: Any) -> pb.Document:
    return pb.Document(**({"id": "d", "text": "text"} | fields))


@pytest.mark.parametrize("fields", [{}, {"id": "é" * 100}, {"id": "a b/c#😀"}, {"text": " x "}, {"title": "_"}])
def test_good_documents(fields: dict[str, str]) -> None:
    assert document_fault(document(**fields)) is None


@pytest.mark.parametrize(
    ("fields", "reason", "word"),
    [
        ({"id": ""}, "DOCUMENT_ID_INVALID", "0 bytes"),
        ({"id": "x" * 201}, "DOCUMENT_ID_INVALID", "201 bytes"),
        ({"id": "é" * 101}, "DOCUMENT_ID_INVALID", "202 bytes"),
        ({"id": "a\nb"}, "DOCUMENT_ID_INVALID", "control character"),
        ({"id": "a\0"}, "DOCUMENT_ID_INVALID", "control character"),
        ({"text": ""}, "DOCUMENT_EMPTY", "empty"),
        ({"title": "x" * 1001}, "TITLE_TOO_LONG", "1001 characters"),
        ({"text": " \n\t\u2003"}, "DOCUMENT_EMPTY", "white space"),
        ({"text": "字" * 5_600_000}, "DOCUMENT_TOO_LONG", "5600000 characters"),
        ({"text": "😀" * 4_900_000}, "DOCUMENT_TOO_LONG", "19600000 bytes; at most 16777216"),
        ({"format": 99}, "FORMAT_UNKNOWN", "is 99"),
        ({"metadata": {"a": math.nan}}, "METADATA_INVALID", "document.metadata has a number that is NaN"),
        ({"metadata": {"a": [{"b": -math.inf}]}}, "METADATA_INVALID", "infinite"),
        ({"metadata": {"a": "é" * 28_670}}, "METADATA_INVALID", "at most 57344 are allowed"),
        ({"metadata": nested(17)}, "METADATA_INVALID", "more than 16 levels"),
    ],
)
def test_faulty_documents(fields: dict[str, str], reason: str, word: str) -> None:
    fault = document_fault(document(**fields))
    assert fault is not None
    assert fault[0] == reason
    assert word in fault[1]


def test_metadata_may_be_just_so_large_and_deep() -> None:
    assert document_fault(document(metadata={"a": "é" * 28_668})) is None
    assert document_fault(document(metadata=nested(15))) is None


def test_a_document_may_have_just_the_most_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MOST_CHARACTERS", 10)
    assert document_fault(document(text="é" * 10)) is None
    fault = document_fault(document(text="é" * 11))
    assert fault == ("DOCUMENT_TOO_LONG", "document.text has 11 characters; at most 10 are allowed")


def test_metadata_may_not_use_our_names() -> None:
    good, bad = document(), document()
    good.metadata.update({"year": 2020, "a_b": "_x"})
    bad.metadata.update({"_title": "x", "_document": "other", "year": 1})
    assert document_fault(good) is None
    fault = document_fault(bad)
    assert fault is not None
    assert fault[0] == "METADATA_RESERVED"
    assert "_document, _title;" in fault[1]
    assert "year" not in fault[1]
