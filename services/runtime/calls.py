"""What the gateway and every service do alike with a call: admit it, time its content, count its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc

from services.runtime import tracing
from services.runtime.errors import DeadlineExceeded, ResourceExhausted
from services.runtime.loop import arrived
from services.runtime.metrics import Server
from services.runtime.settings import ServiceSettings

# How a stream ended, by its status; everything else is an error.
ENDS = {
    grpc.StatusCode.OK: "completed",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
}
# A caller's deadline passes before ours: on the wire its seconds are rounded up, by gRPC's C core to at most a millisecond or
# a hundredth more (timeout_encoding.cc).
ROUNDED_SECONDS, ROUNDED_SHARE = 0.001, 0.01
# What gRPC adds to a call that it sends again (gRFC A6).
RETRIED = "grpc-previous-rpc-attempts"


def check_size(data: bytes, limit: int) -> None:
    """MESSAGE_TOO_LARGE where a message has more than ``limit`` bytes."""
    if len(data) > limit:
        text = f"the message has {len(data)} bytes; at most {limit} are allowed"
        raise ResourceExhausted(text, reason="MESSAGE_TOO_LARGE", metadata={"limit_bytes": str(limit)})


class Calls:
    """The calls of one server that run now."""

    def __init__(self, settings: ServiceSettings, metrics: Server) -> None:
        self.settings, self.metrics = settings, metrics
        self.running = 0
        metrics.most.set(settings.max_concurrent_calls)

    def begin(self, path: str, context: Any, *, name: str = "", streams: bool = False) -> Call:
        """``path``: ``package.Service/Method``; ``name``: what metrics call it; ``streams``: it answers with a stream."""
        return Call(self, path, context, name or path.rpartition("/")[2], streams)


class Call:
    """One call, from its arrival to its end; leave the ``with`` and its books are closed."""

    def __init__(self, calls: Calls, path: str, context: Any, method: str, streams: bool) -> None:
        self._calls, self._metrics, self._method, self._streams = calls, calls.metrics, method, streams
        self._begun = arrived()
        given = context.invocation_metadata() or ()
        if any(key == RETRIED for key, _ in given):
            self._metrics.retried.inc()
        self._traced = tracing.server(path, given) if tracing.on() else None
        self._last: float | None = None
        self._then: list[Callable[[], object]] = []
        self.code = grpc.StatusCode.OK
        self.request_id = ""
        self.span = tracing.current()

    def __enter__(self) -> Call:
        if self._traced is not None:
            self.span = self._traced.__enter__()
        self._calls.running += 1
        self._metrics.in_flight.inc()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._calls.running -= 1
        self._metrics.in_flight.dec()
        self._metrics.requests.labels(self._method, self.code.name).inc()
        if self._streams:
            self._metrics.streams.labels(self._method, ENDS.get(self.code, "error")).inc()
        self._metrics.duration.labels(self._method).observe(time.monotonic() - self._begun)
        for then in self._then:
            then()
        if self._traced is not None:
            tracing.ended(self.span, self.code)
            self._traced.__exit__(None, None, None)

    def on_end(self, then: Callable[[], object]) -> None:
        """Call ``then`` once the call is over and its code is known."""
        self._then.append(then)

    def admit(self, context: Any) -> float:
        """The seconds that the call may take; DEADLINE_ALREADY_PASSED or OVERLOADED where it may not run."""
        settings = self._calls.settings
        remaining = context.time_remaining()
        if remaining is None:
            remaining = settings.default_deadline_seconds
        if remaining <= 0:
            self._metrics.refused.labels("DEADLINE_ALREADY_PASSED").inc()
            raise DeadlineExceeded("the deadline had passed when the call arrived", reason="DEADLINE_ALREADY_PASSED")
        if self._calls.running > settings.max_concurrent_calls:
            self._metrics.refused.labels("OVERLOADED").inc()
            text = f"{settings.max_concurrent_calls} calls run already"
            raise ResourceExhausted(text, reason="OVERLOADED", retry_after_seconds=0.5)
        return float(remaining)

    def content(self) -> None:
        """A message with content leaves now."""
        now = time.monotonic()
        if self._last is None:
            self._metrics.ttft.labels(self._method).observe(now - self._begun)
        else:
            self._metrics.inter_token.labels(self._method).observe(now - self._last)
        self._last = now

    def left(self, failure: BaseException, context: Any) -> bool:
        """Whether the caller went away, or its deadline passed, rather than that the call failed; sets the code."""
        if not isinstance(failure, asyncio.CancelledError | GeneratorExit):
            return False
        remaining = context.time_remaining()
        passed = remaining is not None and remaining <= ROUNDED_SECONDS + ROUNDED_SHARE * (
            time.monotonic() - self._begun
        )
        self.code = grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED
        return True


async def greet(context: Any, metadata: Sequence[tuple[str, str | bytes]]) -> None:
    """Send a call's initial metadata. It can only fail where the call is over: its caller has left."""
    try:
        await context.send_initial_metadata(metadata)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
