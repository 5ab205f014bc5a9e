"""The event loop knows since when a call may have waited, and tells how late it is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Histogram

from services.runtime import loop
from tests.waiting import eventually

BLOCKED_SECONDS, TRIES = 0.3, 20


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
def test_a_call_that_comes_while_the_loop_is_busy_has_waited_since_then(kind: str) -> None:
    waited: list[float] = []

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            async def unary(request: Any, context: Any) -> bytes:
                waited.append(time.monotonic() - loop.arrived())
                return b""

            async def stream(request: Any, context: Any) -> Any:
                waited.append(time.monotonic() - loop.arrived())
                yield b""

            make = getattr(grpc, f"{kind}_rpc_method_handler")
            return make(unary if kind == "unary_unary" else stream)

    class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    async def main() -> None:
        server = grpc.aio.server(interceptors=[Interceptor()])
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        def call() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(60)
                method = getattr(channel, kind)("/a/b")
                for _ in range(TRIES):  # a call that comes too late for the loop to be busy says nothing
                    busy = threading.Event()
                    running.call_soon_threadsafe(lambda now: now.set() or time.sleep(BLOCKED_SECONDS), busy)
                    busy.wait()
                    answer = method(iter([b""]) if kind == "stream_stream" else b"")
                    list(answer if kind != "unary_unary" else [answer])
                    if waited[-1] >= BLOCKED_SECONDS:
                        return

        running = asyncio.get_running_loop()
        await asyncio.to_thread(call)
        await server.stop(0)

    loop.run(main())
    assert waited[-1] >= BLOCKED_SECONDS


def test_outside_a_service_a_call_comes_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_turns", None)
    before = time.monotonic()
    assert before <= loop.arrived() <= time.monotonic()


async def test_the_lag_is_how_late_the_loop_is() -> None:
    lag = Histogram("lag", "lag", registry=CollectorRegistry())
    watching = asyncio.create_task(loop.watch(lag))
    await asyncio.sleep(loop.LAG_EVERY_SECONDS / 2)
    time.sleep(loop.LAG_EVERY_SECONDS + BLOCKED_SECONDS)  # noqa: ASYNC251
    await eventually(lambda: lag._sum.get() >= BLOCKED_SECONDS / 2)
    watching.cancel()
