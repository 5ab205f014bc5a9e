"""Errors of calls, as exceptions: one class a gRPC status, with the machine-readable details."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True)
class FieldViolation:
    """What is wrong with one field of the request."""

    field: str
    description: str


class GenmeshError(Exception):
    """Root of the tree.

    ``code``: the gRPC status. ``reason``: the constant of google.rpc.ErrorInfo, "" if the server sent none. The client
    itself gives CONNECTION_LOST (a call ended UNAVAILABLE and no server said why: none was reached, or the connection
    broke), INVALID_REQUEST (a request or an argument that cannot be sent), CLIENT_CLOSED and DEADLINE_ALREADY_PASSED.
    ``metadata``: its details. ``field_violations``: the fields, or the client's arguments, at fault.
    ``retry_after_seconds``: when to try again, where the server says so. ``request_id``: under which the server's logs
    have the call; "" where none was reached.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: dict[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.reason = message, code, reason
        self.metadata = metadata or {}
        self.field_violations = field_violations
        self.retry_after_seconds = retry_after_seconds
        self.request_id = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.code.name}{'/' + self.reason if self.reason else ''})"


class InvalidArgument(GenmeshError):
    pass


class NotFound(GenmeshError):
    pass


class AlreadyExists(GenmeshError):
    pass


class Unauthenticated(GenmeshError):
    pass


class Aborted(GenmeshError):
    pass


class PermissionDenied(GenmeshError):
    pass


class ResourceExhausted(GenmeshError):
    pass


class FailedPrecondition(GenmeshError):
    pass


class Unimplemented(GenmeshError):
    pass


class Unavailable(GenmeshError):
    pass


class DeadlineExceeded(GenmeshError):
    pass


class Cancelled(GenmeshError):
    pass


class Internal(GenmeshError):
    pass


_CLASSES: dict[grpc.StatusCode, type[GenmeshError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: Internal,
}


def from_rpc_error(failure: grpc.RpcError) -> GenmeshError:
    """The exception for a failed call."""
    code: grpc.StatusCode = failure.code()
    error = _CLASSES.get(code, GenmeshError)(failure.details() or code.name, code)
    for key, value in failure.trailing_metadata() or ():
        if key == "x-request-id":
            error.request_id = str(value)
        if key != "grpc-status-details-bin":
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            continue
        for detail in status.details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                error.reason, error.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                error.field_violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
            elif detail.Unpack(retry):
                error.retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    if code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        error.reason = "CONNECTION_LOST"
    return error
