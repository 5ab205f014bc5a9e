"""Errors as google.rpc statuses, and the errors of other services as our own."""

from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from services.runtime import errors

EVERY_CLASS = [
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.Unauthenticated,
    errors.ResourceExhausted,
    errors.Unimplemented,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Internal,
]


def failure_of(error: errors.GenmeshError) -> grpc.aio.AioRpcError:
    """The failure that a caller sees where a server answered with an error."""
    return grpc.aio.AioRpcError(
        error.code, grpc.aio.Metadata(), grpc.aio.Metadata(*errors.trailing(error)), details=error.message
    )


def raised_by(failure: grpc.aio.AioRpcError, service: str = "embedding") -> errors.GenmeshError:
    with pytest.raises(errors.GenmeshError) as caught, errors.calling(service, "Embed"):
        raise failure
    return caught.value


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_status_has_the_code_of_its_class(kind: type[errors.GenmeshError]) -> None:
    status = errors.to_status(kind("why"))
    assert (status.code, status.message) == (kind.code.value[0], "why")


def test_status_carries_reason_violations_and_delay() -> None:
    error = errors.ResourceExhausted(
        "full",
        reason="OVERLOADED",
        metadata={"limit": "3"},
        violations=[errors.Violation("a.b[2]", "is bad")],
        retry_after_seconds=0.5,
    )
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    status = errors.to_status(error)
    assert [detail.Unpack(message) for detail, message in zip(status.details, (info, bad, retry), strict=True)] == [
        True,
        True,
        True,
    ]
    assert (info.reason, info.domain, dict(info.metadata)) == ("OVERLOADED", "genmesh", {"limit": "3"})
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b[2]", "is bad")]
    assert retry.retry_delay.ToMilliseconds() == 500


def test_status_without_violations_or_delay_has_error_info_only() -> None:
    (detail,) = errors.to_status(errors.NotFound("gone")).details
    assert detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)


def test_trailing_is_the_serialized_status_under_the_standard_key() -> None:
    error = errors.invalid("text", "is empty")
    ((key, value),) = errors.trailing(error)
    assert key == "grpc-status-details-bin"
    assert status_pb2.Status.FromString(value) == errors.to_status(error)


def test_invalid_names_its_field_in_message_and_violation() -> None:
    error = errors.invalid("text", "is empty", reason="OTHER")
    assert (error.message, error.reason) == ("text: is empty", "OTHER")
    assert error.violations == (errors.Violation("text", "is empty"),)


def test_reasons_of_instances_do_not_change_their_class() -> None:
    errors.NotFound("gone", reason="MODEL_NOT_FOUND")
    assert errors.NotFound("gone").reason == "NOT_FOUND"


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_calling_keeps_code_message_reason_metadata_and_violations(kind: type[errors.GenmeshError]) -> None:
    sent = kind("why", reason="SOME", metadata={"model": "m"}, violations=[errors.Violation("f", "d")])
    got = raised_by(failure_of(sent))
    assert (got.code, got.message, got.reason) == (sent.code, "why", "SOME")
    assert (got.metadata, got.violations) == ({"model": "m"}, (errors.Violation("f", "d"),))


def test_calling_names_the_service_that_does_not_answer() -> None:
    bare = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "refused")
    got = raised_by(bare, "vector_search")
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "VECTOR_SEARCH_UNAVAILABLE")
    assert got.retry_after_seconds == 1.0
    assert "vector_search" in got.message
    assert "refused" in got.message


def test_calling_gives_a_failure_without_details_the_services_reason() -> None:
    bare = grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), None)
    got = raised_by(bare, "generation")
    assert (got.code, got.reason, got.message) == (grpc.StatusCode.UNKNOWN, "GENERATION_FAILED", "UNKNOWN")


def test_calling_lets_other_exceptions_through() -> None:
    with pytest.raises(KeyError), errors.calling("rag", "Embed"):
        raise KeyError("mine")


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=3000) | st.sampled_from(
    ["x" * 9000, "😀" * 5000, "%" * 5000]
)


@given(any_text, st.lists(st.tuples(any_text, any_text), max_size=20))
@example("😀" * 5000, [("漢" * 5000, "%" * 5000)] * 20)
def test_a_status_fits_into_headers_and_keeps_its_reason(text: str, faults: list[tuple[str, str]]) -> None:
    violations = [errors.Violation(*fault) for fault in faults]
    error = errors.NotFound(
        text, reason="MODEL_NOT_FOUND", metadata={"model": text, "field": text}, violations=violations
    )
    ((_, details),) = errors.trailing(error)
    message = errors.clipped(error.message, errors.MESSAGE_BYTES)
    assert 4 * len(details) / 3 + len(quote(message, safe="")) < 7000
    assert errors.reason_in([("grpc-status-details-bin", details)]) == "MODEL_NOT_FOUND"
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status_pb2.Status.FromString(details).details) == bool(faults)
    assert bool(bad.field_violations) == bool(faults)


def test_what_is_short_is_not_clipped() -> None:
    assert errors.clipped("é" * 50) == "é" * 50
    assert errors.clipped("é" * 51) == "é" * 47 + "..."
    assert errors.clipped("a" * 300) == "a" * 300


def test_faults_of_anothers_message_become_those_of_ours() -> None:
    with pytest.raises(errors.InvalidArgument) as caught, errors.renamed({"sampling.max_tokens": "max_tokens"}):
        raise errors.invalid("sampling.max_tokens", "is 0")
    assert caught.value.violations == (errors.Violation("max_tokens", "is 0"),)
    assert caught.value.message == "max_tokens: is 0"
    with pytest.raises(errors.NotFound) as missing, errors.renamed({"a": "b"}):
        raise errors.NotFound("a: is not there", metadata={"field": "a"})
    assert (missing.value.message, missing.value.metadata) == ("a: is not there", {"field": "b"})
