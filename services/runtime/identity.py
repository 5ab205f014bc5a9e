"""Who calls: the tenant that the gateway found, signed, and the call's id.

The gateway drops every ``genmesh-*`` entry that a client sends and adds its own; services accept a
tenant only with a valid signature. So neither a client of the gateway nor a process that reaches a
service directly can name a tenant for itself.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from services.runtime.errors import Unauthenticated

IDENTITY = "genmesh-identity"
REQUEST_ID = "genmesh-request-id"
RESERVED = "genmesh-"
PASSED_ON = ("traceparent", "tracestate")
VALID_SECONDS = 3600
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Call:
    """The identity of the call at hand."""

    tenant: str
    request_id: str
    token: str
    trace: Metadata = ()

    def metadata(self, *, trace: bool = True) -> Metadata:
        """What travels with calls to other services; ``trace``: also the caller's own trace context."""
        return ((IDENTITY, self.token), (REQUEST_ID, self.request_id), *(self.trace if trace else ()))


_current: ContextVar[Call] = ContextVar("call")


def current() -> Call:
    """The call that this task serves; only inside a handler."""
    return _current.get()


def within() -> Call | None:
    """The call that this task serves, if any."""
    return _current.get(None)


def enter(call: Call) -> None:
    _current.set(call)


@lru_cache(1024)
def _signature(secret: bytes, body: str) -> str:
    return hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()


@lru_cache(1024)
def _signed(secret: bytes, tenant: str, seconds: int) -> str:
    body = f"{tenant.encode().hex()}.{seconds}"
    return f"{body}.{_signature(secret, body)}"


def sign(secret: bytes, tenant: str) -> str:
    """A token for a tenant: ``tenant.seconds.signature`` (HMAC-SHA-256); good for an hour."""
    return _signed(secret, tenant, int(time.time()))


def verify(secret: bytes, token: str) -> str:
    """The tenant of a token; Unauthenticated where it was not signed here or is too old."""
    body, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(secret, body).encode()):
        raise Unauthenticated("the identity of this call is not signed by the gateway", reason="IDENTITY_INVALID")
    tenant, _, issued = body.partition(".")
    if abs(time.time() - int(issued)) > VALID_SECONDS:
        raise Unauthenticated("the identity of this call has expired", reason="IDENTITY_EXPIRED")
    return bytes.fromhex(tenant).decode()


def from_metadata(metadata: Iterable[tuple[str, str | bytes]], secret: bytes) -> Call:
    """The call that a service's request metadata describes."""
    found: Mapping[str, str | bytes] = dict(metadata)
    token = str(found.get(IDENTITY, ""))
    if not token:
        raise Unauthenticated("this service takes calls from the gateway only", reason="IDENTITY_MISSING")
    trace = tuple((key, found[key]) for key in PASSED_ON if key in found)
    return Call(verify(secret, token), str(found.get(REQUEST_ID) or uuid.uuid4().hex), token, trace)
