"""A bare grpc.aio proxy of unary calls: bytes and metadata through, nothing else.

python grpc_proxy.py HOST:PORT TARGET   (in the project's environment)
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

OWN = ("user-agent", "te", "content-type", "grpc-accept-encoding")


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = details.method
        if path not in self.handlers:
            call = self.channel.unary_unary(path)

            async def forward(request: bytes, context: Any) -> bytes:
                given = tuple((key, value) for key, value in context.invocation_metadata() if key not in OWN)
                answer: bytes = await call(request, metadata=given, timeout=context.time_remaining())
                return answer

            self.handlers[path] = grpc.unary_unary_rpc_method_handler(forward)
        return self.handlers[path]


async def main(listen: str, target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Proxy(channel),))
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


asyncio.run(main(sys.argv[1], sys.argv[2]))
