"""The boundary refuses a passed deadline and an overload before any work."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.runtime import identity
from services.runtime.calls import Calls, greet
from services.runtime.errors import DeadlineExceeded, ResourceExhausted, Unauthenticated
from services.runtime.interceptors.boundary import Boundary
from services.runtime.metrics import Server
from services.runtime.settings import ServiceSettings

SECRET = "a secret of the tests"


class Context:
    """What the boundary asks of gRPC's context."""

    def __init__(self, remaining: float | None, token: str) -> None:
        self.remaining, self.token = remaining, token

    def time_remaining(self) -> float | None:
        return self.remaining

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((identity.IDENTITY, self.token),)


@pytest.fixture
def boundary() -> Boundary:
    settings = ServiceSettings(port=1, metrics_port=2, identity_secret=SECRET, max_concurrent_calls=2)
    return Boundary(settings, Server("rag", CollectorRegistry(), method=["Method"]))


def token() -> str:
    return identity.sign(SECRET.encode(), "alpha")


def enter(boundary: Boundary, context: Context) -> float:
    with boundary.calls.begin("genmesh.v1.RagService/Method", context) as call:
        return boundary._enter(call, None, context)


@pytest.mark.parametrize("remaining", [0.0, -1.0])
def test_a_passed_deadline_is_refused_before_the_caller_is_even_known(boundary: Boundary, remaining: float) -> None:
    with pytest.raises(DeadlineExceeded) as failure:
        enter(boundary, Context(remaining, "no token"))
    assert failure.value.reason == "DEADLINE_ALREADY_PASSED"
    assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_without_a_deadline_gets_the_default(boundary: Boundary) -> None:
    assert enter(boundary, Context(None, token())) == boundary.settings.default_deadline_seconds
    assert enter(boundary, Context(5.0, token())) == 5.0
    assert identity.current().tenant == "alpha"


@pytest.mark.parametrize(
    ("seconds", "remaining", "code"),
    [
        (1.4, -0.001, "DEADLINE_EXCEEDED"), (1.4, 0.009, "DEADLINE_EXCEEDED"), (0.1, 0.0009, "DEADLINE_EXCEEDED"),
        (1.4, 0.2, "CANCELLED"), (0.1, 0.02, "CANCELLED"), (1.4, None, "CANCELLED"),
    ],
)  # fmt: skip
def test_who_leaves_at_the_deadline_did_not_cancel(
    boundary: Boundary, seconds: float, remaining: float | None, code: str
) -> None:
    """On the wire a caller's timeout is rounded up, so the caller leaves before the deadline that we know of."""
    context = Context(remaining, token())
    with boundary.calls.begin("genmesh.v1.RagService/Method", context, streams=True) as call:
        call._begun -= seconds
        assert call.left(asyncio.CancelledError(), context)
    assert call.code.name == code


def test_too_many_calls_are_refused_and_counted(boundary: Boundary) -> None:
    boundary.calls.running = 2
    with pytest.raises(ResourceExhausted) as failure:
        enter(boundary, Context(5.0, token()))
    assert failure.value.reason == "OVERLOADED"
    assert failure.value.retry_after_seconds
    assert boundary.calls.metrics.refused.labels("OVERLOADED")._value.get() == 1


async def test_a_call_that_its_callers_grpc_sends_again_is_counted() -> None:
    """Against a real server that fails twice: gRPC says so itself, in the metadata."""
    settings = ServiceSettings(port=1, metrics_port=2, identity_secret=SECRET)
    calls = Calls(settings, Server("rag", CollectorRegistry(), method=["Method"]))

    async def fail_twice(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        with calls.begin("test.Service/Method", context):
            if calls.metrics.retried._value.get() < 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return b""

    server = grpc.aio.server()
    handlers = {"Method": grpc.unary_unary_rpc_method_handler(fail_twice)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    policy = {"maxAttempts": 4, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy | {"retryableStatusCodes": ["UNAVAILABLE"]}}]}
    options = [("grpc.service_config", json.dumps(config))]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        assert await channel.unary_unary("/test.Service/Method")(b"", timeout=60) == b""
    await server.stop(None)
    assert calls.metrics.retried._value.get() == 2


def test_nobody_is_let_in_without_a_signature(boundary: Boundary) -> None:
    with pytest.raises(Unauthenticated):
        enter(boundary, Context(5.0, "616c706861.1.00"))


@pytest.mark.parametrize(
    ("failure", "raised"), [(grpc.aio.InternalError("batch"), asyncio.CancelledError), (ValueError("bug"), ValueError)]
)
async def test_a_caller_that_left_before_the_greeting_is_no_failure(
    failure: Exception, raised: type[BaseException]
) -> None:
    class Over:
        async def send_initial_metadata(self, metadata: object) -> None:
            raise failure

    with pytest.raises(raised):
        await greet(Over(), ())
