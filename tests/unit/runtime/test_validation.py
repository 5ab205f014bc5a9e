"""Checks of fields: bounds, NaN, and faults that are collected into one error."""

import json
import math
from typing import Any

import pytest
from google.protobuf import struct_pb2

from services.runtime.errors import InvalidArgument, Violation
from services.runtime.validation import MOST_METADATA_BYTES, MOST_METADATA_LEVELS, Fields, metadata_fault


@pytest.fixture
def fields() -> Fields:
    return Fields()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 2.001])
def test_number_refuses_what_is_out_of_range(fields: Fields, value: float) -> None:
    fields.number("temperature", value, 0, 2)
    assert [v.field for v in fields.violations] == ["temperature"]
    assert "0 to 2 are allowed" in fields.violations[0].description


@pytest.mark.parametrize("value", [0, 1.5, 2])
def test_number_allows_both_bounds(fields: Fields, value: float) -> None:
    fields.number("temperature", value, 0, 2)
    assert not fields.violations


@pytest.mark.parametrize("bound", [math.inf, math.nan])
def test_number_refuses_infinity_even_without_an_upper_bound(fields: Fields, bound: float) -> None:
    fields.number("score", bound, -math.inf, math.inf)
    assert fields.violations


@pytest.mark.parametrize(
    ("value", "blank", "fault"),
    [
        ("", False, "must not be empty"),
        ("", True, "must not be empty"),
        (" \n\t", False, "holds white space only"),
        ("\u2003", False, "holds white space only"),
        ("abcdef", False, "has 6 characters; at most 5 are allowed"),
        (" \n", True, None),
        ("abcde", False, None),
        ("é😀", False, None),
    ],
)
def test_text(fields: Fields, value: str, blank: bool, fault: str | None) -> None:
    fields.text("text", value, most=5, blank=blank)
    assert [v.description for v in fields.violations] == ([fault] if fault else [])


def test_text_may_be_empty_where_the_least_is_zero(fields: Fields) -> None:
    fields.text("text", "", least=0, most=5)
    assert not fields.violations


@pytest.mark.parametrize(("length", "good"), [(0, False), (1, True), (3, True), (4, False)])
def test_size(fields: Fields, length: int, good: bool) -> None:
    fields.size("items", ["x"] * length, most=3)
    assert (not fields.violations) == good


@pytest.mark.parametrize(
    ("value", "result", "good"), [(0, 7, True), (1, 1, True), (9, 9, True), (10, 10, False), (-1, -1, False)]
)
def test_defaulted(fields: Fields, value: int, result: int, good: bool) -> None:
    assert fields.defaulted("limit", value, 7, 9) == result
    assert (not fields.violations) == good


def test_done_is_silent_without_faults(fields: Fields) -> None:
    fields.done()


def test_done_raises_all_faults_at_once(fields: Fields) -> None:
    fields.text("a", "", most=5)
    fields.number("b", math.nan, 0, 1)
    with pytest.raises(InvalidArgument) as caught:
        fields.done()
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.violations == (
        Violation("a", "must not be empty"),
        Violation("b", "is nan; 0 to 1 are allowed"),
    )
    assert caught.value.message == "a: must not be empty; b: is nan; 0 to 1 are allowed"


def test_done_bounds_what_goes_into_the_headers(fields: Fields) -> None:
    for i in range(1000):
        fields.fault(f"texts[{i}]", "is bad")
    with pytest.raises(InvalidArgument) as caught:
        fields.done()
    assert caught.value.message.endswith("; and 995 more")
    assert [v.field for v in caught.value.violations] == [f"texts[{i}]" for i in range(20)]


def metadata(**values: Any) -> struct_pb2.Struct:
    found = struct_pb2.Struct()
    found.update(values)
    return found


def nested(levels: int, *, lists: bool = False) -> Any:
    found: Any = [] if lists else {}
    for _ in range(levels - 1):
        found = [found] if lists else {"a": found}
    return found


@pytest.mark.parametrize("lists", [False, True])
def test_metadata_has_so_many_levels(lists: bool) -> None:
    assert metadata_fault(metadata(a=nested(MOST_METADATA_LEVELS - 1, lists=lists), b=1)) == ""
    assert "levels" in metadata_fault(metadata(b=1, a=nested(MOST_METADATA_LEVELS, lists=lists)))


@pytest.mark.parametrize("text", ["a", "é", "日", "\U0001f600", '"', "\n", "\x01"])
def test_metadata_has_so_many_bytes_as_json(text: str) -> None:
    room, each = MOST_METADATA_BYTES - len('{"a":""}'), len(json.dumps(text, ensure_ascii=False).encode()) - 2
    longest = text * (room // each) + "x" * (room % each)
    assert metadata_fault(metadata(a=longest)) == ""
    assert metadata_fault(metadata(a=longest + "x")).startswith(f"has {MOST_METADATA_BYTES + 1} bytes")


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"b": [{"c": math.nan}]}])
def test_metadata_has_finite_numbers(value: Any) -> None:
    assert metadata_fault(metadata(a=value)) == "has a number that is NaN or infinite"


def test_metadata_that_is_good() -> None:
    assert metadata_fault(metadata()) == ""
    assert metadata_fault(metadata(a=None, b=True, c=1e300, d=[1, "x", {}], e={"f": -0.5})) == ""
