"""grpc.health.v1, per service: SERVING only while everything a service needs answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

log = logging.getLogger(__name__)
Probe = Callable[[], Awaitable[None]]
INTERVAL_SECONDS = 1.0
# This process alone: SERVING from when all that it needs has answered once until it drains, whatever fails in between.
# What balancers and Kubernetes' probes ask: what all replicas lean on must not take every one of them away.
ITSELF = "itself"
# Under this name and a dependency's own each server tells how what it leans on is.
DEPENDENCY = "dependency/"
PROBE_TIMEOUT_SECONDS = 2.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def channel_probe(channel: grpc.aio.Channel, service: str) -> Probe:
    """A probe that asks another server's health."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def probe() -> None:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PROBE_TIMEOUT_SECONDS)
        if answer.status != SERVING:
            raise RuntimeError("NOT_SERVING")

    return probe


class Health:
    """Asks the probes each second and sets the status of the services, and of the server as a whole ("")."""

    def __init__(
        self,
        names: Sequence[str],
        probes: Mapping[str, Probe],
        *,
        each: bool = False,
        optional: Mapping[str, Probe] | None = None,
        on_check: Callable[[Mapping[str, str]], None] = lambda down: None,
    ) -> None:
        """``each``: a probe has the name of the one service that it speaks for (the gateway's way).

        ``optional`` probes are asked and told as dependencies, and change no service's status.
        ``on_check`` gets the probes that failed, and why.
        """
        self.servicer = health_aio.HealthServicer()
        self.names, self.each, self.optional, self.on_check = list(names), each, set(optional or ()), on_check
        self.probes = dict(probes) | dict(optional or {})
        self.draining = False
        self._begun = each  # a gateway opens with the services that are there
        self._down: dict[str, str] = {}

    async def _ask(self, name: str) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self.probes[name]()
        except Exception as failure:  # whatever it is, the dependency does not answer
            return str(failure) or type(failure).__name__
        return None

    async def check(self) -> None:
        answers = await asyncio.gather(*(self._ask(name) for name in self.probes))
        down = {name: why for name, why in zip(self.probes, answers, strict=True) if why}
        for name in down.keys() - self._down.keys():
            log.warning("%s does not answer: %s", name, down[name])
        for name in self._down.keys() - down.keys():
            log.info("%s answers again", name)
        self._down = down
        self.on_check(down)
        if self.draining:
            return
        if not self.each:
            for name in self.probes:
                await self.servicer.set(DEPENDENCY + name, NOT_SERVING if name in down else SERVING)
            down = {name: why for name, why in down.items() if name not in self.optional}
        for name in self.names:
            failed = name in down if self.each else bool(down)
            await self.servicer.set(name, NOT_SERVING if failed else SERVING)
        await self.servicer.set("", NOT_SERVING if down else SERVING)
        if not (down or self._begun):
            self._begun = True
            await self.servicer.set(ITSELF, SERVING)

    async def watch(self) -> None:
        for name in [*self.names, ""]:
            await self.servicer.set(name, NOT_SERVING)
        await self.servicer.set(ITSELF, SERVING if self._begun else NOT_SERVING)
        while True:
            await self.check()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def enter_drain(self) -> None:
        self.draining = True
        await self.servicer.enter_graceful_shutdown()
