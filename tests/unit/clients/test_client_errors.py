"""Failed calls as the client's exceptions, made from what the services really send."""

import grpc
import pytest
from genmesh import errors as client

from services.runtime import errors as server


def failed(
    code: grpc.StatusCode, details: str | None = "why", trailing: tuple[tuple[str, bytes | str], ...] = ()
) -> client.GenmeshError:
    return client.from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details))


@pytest.mark.parametrize("kind", server.GenmeshError.__subclasses__())
def test_each_error_of_a_service_arrives_as_the_class_of_its_name(kind: type[server.GenmeshError]) -> None:
    sent = kind(
        "why",
        reason="SOME",
        metadata={"model": "m"},
        violations=[server.Violation("a[1]", "is bad"), server.Violation("b", "is worse")],
        retry_after_seconds=0.25,
    )
    got = failed(sent.code, sent.message, server.trailing(sent))
    assert type(got).__name__ == kind.__name__
    assert (got.message, got.code, got.reason, got.metadata) == ("why", sent.code, "SOME", {"model": "m"})
    assert [(v.field, v.description) for v in got.field_violations] == [("a[1]", "is bad"), ("b", "is worse")]
    assert got.retry_after_seconds == 0.25


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.CANCELLED, client.Cancelled),
        (grpc.StatusCode.PERMISSION_DENIED, client.PermissionDenied),
        (grpc.StatusCode.ABORTED, client.Aborted),
        (grpc.StatusCode.OUT_OF_RANGE, client.GenmeshError),
        (grpc.StatusCode.UNKNOWN, client.GenmeshError),
        (grpc.StatusCode.DATA_LOSS, client.GenmeshError),
    ],
)
def test_a_failure_without_details_keeps_code_and_text(code: grpc.StatusCode, kind: type[client.GenmeshError]) -> None:
    got = failed(code)
    assert type(got) is kind
    assert (got.message, got.code, got.reason, got.metadata, got.field_violations) == ("why", code, "", {}, ())
    assert got.retry_after_seconds is None


def test_a_connection_that_broke_has_a_reason_of_its_own() -> None:
    got = failed(grpc.StatusCode.UNAVAILABLE)
    assert (type(got), got.message, got.reason) == (client.Unavailable, "why", "CONNECTION_LOST")


def test_a_failure_without_text_has_its_codes_name() -> None:
    assert failed(grpc.StatusCode.UNAVAILABLE, None).message == "UNAVAILABLE"


def test_details_that_cannot_be_read_are_passed_over() -> None:
    got = failed(grpc.StatusCode.NOT_FOUND, "why", (("grpc-status-details-bin", b"\xff\xff"), ("other", "x")))
    assert (type(got), got.message, got.reason) == (client.NotFound, "why", "")


def test_text_of_an_error() -> None:
    error = client.NotFound("no such model", grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert str(error) == "no such model (NOT_FOUND/MODEL_NOT_FOUND)"
    assert str(client.Internal("broken", grpc.StatusCode.INTERNAL)) == "broken (INTERNAL)"


def test_all_errors_can_be_caught_as_one() -> None:
    with pytest.raises(client.GenmeshError):
        raise failed(grpc.StatusCode.NOT_FOUND)
