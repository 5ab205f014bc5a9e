"""The errors of every service, and how they travel: a gRPC status with google.rpc details.

A servicer raises one of these; the boundary interceptor turns it into a status whose details carry
``ErrorInfo{reason, domain: "genmesh", metadata}``, ``BadRequest`` field violations and ``RetryInfo``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.runtime import tracing

DOMAIN = "genmesh"
# Many receivers allow 8 KiB of headers. A status takes the message twice and its details as base64, a third larger.
MESSAGE_BYTES, VIOLATIONS_BYTES = 1000, 2000


@dataclass(frozen=True)
class Violation:
    """What is wrong with one field; ``field`` is its path, such as ``entities[3].vector``."""

    field: str
    description: str


class GenmeshError(Exception):
    """Root of the tree. ``reason`` is the machine-readable constant."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds
        self.retried = False  # this process has retried already; its caller's retries would multiply with those


class InvalidArgument(GenmeshError):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"


class NotFound(GenmeshError):
    code, reason = grpc.StatusCode.NOT_FOUND, "NOT_FOUND"


class AlreadyExists(GenmeshError):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"


class FailedPrecondition(GenmeshError):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "FAILED_PRECONDITION"


class Aborted(GenmeshError):
    code, reason = grpc.StatusCode.ABORTED, "ABORTED"


class Unauthenticated(GenmeshError):
    code, reason = grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"


class ResourceExhausted(GenmeshError):
    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"


class Unimplemented(GenmeshError):
    code, reason = grpc.StatusCode.UNIMPLEMENTED, "NOT_AVAILABLE"


class Unavailable(GenmeshError):
    code, reason = grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"


class DeadlineExceeded(GenmeshError):
    code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class Internal(GenmeshError):
    pass


def invalid(field: str, description: str, *, reason: str = "INVALID_FIELD") -> InvalidArgument:
    """An INVALID_ARGUMENT about one field."""
    return InvalidArgument(f"{field}: {description}", reason=reason, violations=[Violation(field, description)])


def answer_too_large(field: str, what: str, limit: int, advice: str) -> InvalidArgument:
    """``what``: what the field asks for, such as "selects entities"; ``limit``: the most bytes of an answer."""
    text = f"{what} of more than {limit} bytes, the most of one answer; ask for {advice}"
    return invalid(field, text, reason="ANSWER_TOO_LARGE")


def clipped(text: str, most: int = 300) -> str:
    """A status travels in HTTP/2 headers of a few KiB, so what callers sent is not repeated at length.

    ``most`` is bytes as grpc-message has them: what is not printable ASCII takes three for each byte of its UTF-8.
    """
    room = most
    for at, character in enumerate(text):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if room < 0:
            return text[: max(0, at - 3)] + "..."
    return text


def _packed(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed


def to_status(error: GenmeshError) -> status_pb2.Status:
    """The google.rpc.Status of an error."""
    details = [
        _packed(
            error_details_pb2.ErrorInfo(
                reason=error.reason, domain=DOMAIN, metadata={k: clipped(v, 200) for k, v in error.metadata.items()}
            )
        )
    ]
    if error.violations:
        bad, room = error_details_pb2.BadRequest(), VIOLATIONS_BYTES
        for v in error.violations:
            bad.field_violations.add(field=clipped(v.field), description=clipped(v.description))
            room -= bad.field_violations[-1].ByteSize()
            if room < 0 and len(bad.field_violations) > 1:
                del bad.field_violations[-1]
                break
        details.append(_packed(bad))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code.name), message=clipped(error.message, MESSAGE_BYTES), details=details
    )


def trailing(error: GenmeshError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries an error's details, and whether the caller's gRPC may try again (gRFC A6): where each
    of two hops tries four times, an outage costs sixteen."""
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    return (*details, ("grpc-retry-pushback-ms", "-1")) if error.retried else details


def reason_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The machine-readable reason in a status's trailing metadata; empty where there is none."""
    for key, value in metadata:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            try:
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Unpack(info):
                        return str(info.reason)
            except DecodeError:
                return ""
    return ""


def from_rpc_error(failure: grpc.RpcError, service: str) -> GenmeshError:
    """An error that another service returned, as our own; its details are kept where it has some."""
    code: grpc.StatusCode = failure.code()
    message = failure.details() or code.name
    error = GenmeshError(message, reason=f"{service.upper()}_FAILED")
    if code is grpc.StatusCode.UNAVAILABLE:
        error = Unavailable(f"the {service} service does not answer: {message}", retry_after_seconds=1.0)
        error.reason = f"{service.upper()}_UNAVAILABLE"
        error.retried = True  # by this channel's policy
    error.code = code
    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                continue
            error.message = status.message
            for detail in status.details:
                info, bad, retry = (
                    error_details_pb2.ErrorInfo(),
                    error_details_pb2.BadRequest(),
                    error_details_pb2.RetryInfo(),
                )
                if detail.Unpack(info):
                    error.reason, error.metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(bad):
                    error.violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
                elif detail.Unpack(retry):
                    error.retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return error


@contextmanager
def renamed(fields: Mapping[str, str]) -> Iterator[None]:
    """Around calls to other services: faults of fields of their messages become faults of the caller's own, by ``fields``."""
    try:
        yield
    except GenmeshError as failure:
        known = [Violation(fields.get(v.field, v.field), v.description) for v in failure.violations]
        if known != list(failure.violations):
            failure.violations = tuple(known)
            failure.message = "; ".join(f"{v.field}: {v.description}" for v in known)
        if (field := failure.metadata.get("field", "")) in fields:
            failure.metadata["field"] = fields[field]
        raise


@contextmanager
def calling(service: str, method: str) -> Iterator[None]:
    """Around a call to another service: its errors become ours, with its reason and details; traced."""
    path = f"genmesh.v1.{service.title().replace('_', '')}Service/{method}"
    try:
        with tracing.client(path) as span:
            try:
                yield
                tracing.ended(span, grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as failure:
                tracing.ended(span, failure.code())
                raise
    except grpc.aio.AioRpcError as failure:
        raise from_rpc_error(failure, service) from None
