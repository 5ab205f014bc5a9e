"""The replicas behind one name: found by DNS, given calls in turn or by prefix, left alone while they do not answer.

A service's calls to Triton go through this rather than through gRPC's own balancers for two reasons: generation wants
the replica whose KV cache holds a prompt's prefix, and a replica that hangs must be left before calls run into their
deadlines.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)
RESOLVE_SECONDS = 2.0
# A replica that left DNS still serves for about so long, what no other has; for so long it is not asked again for
# what it lacks.
LEAVING_SECONDS, LACKING_SECONDS = 15.0, 3.0
PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 2.0
# Of replicas that are well, in all: with more of them than this each is asked less often, so that neither a caller's loop
# nor a replica is kept busy by probes however many there are.
PROBES_A_SECOND = 100
# Failed probes in a row that take a replica out; one is enough where a call failed as well.
FAILED_PROBES = 2
# A replica takes a prefix's calls while it has at most so much more than its share (Mirrokni et al. 2016).
BOUND = 1.25
FEW = 4  # calls at once that crowd no replica, whatever the others have
# Calls sent again to another replica: at most a tenth of all calls, and a few for a start (gRFC A6's throttling).
RETRY_TOKENS, RETRY_RATIO = 10.0, 0.1


class Closable(Protocol):
    def close(self) -> Awaitable[None]: ...


C = TypeVar("C", bound=Closable)


@dataclass(eq=False)
class Replica(Generic[C]):
    address: str
    client: C
    running: int = 0
    begun: bool = False  # has been ready once
    failed_probes: int = 0
    suspect: bool = False  # a call failed; a probe will tell
    out: bool = False  # does not answer
    gone: bool = False  # no longer in DNS; ends with its last call
    lacks: dict[str, float] = field(default_factory=dict)  # what it said that it has not, and when to ask again

    @property
    def usable(self) -> bool:
        return self.begun and not (self.out or self.suspect or self.gone)

    @property
    def unknown(self) -> bool:
        """No probe has come back yet, and no call failed."""
        return not (self.begun or self.failed_probes or self.suspect or self.gone)

    def has(self, what: str) -> bool:
        return self.lacks.get(what, 0.0) < time.monotonic()


def named(url: str) -> tuple[str, int]:
    """Host and port of ``dns:///host:port`` or ``host:port``."""
    host, _, port = url.removeprefix("dns:///").rpartition(":")
    return host.strip("[]"), int(port)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as ``address:port``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = {str(place[0]) for *_, place in found}
    if host == "localhost" and "127.0.0.1" in numbers:  # one server, not two
        numbers = {"127.0.0.1"}
    return sorted(f"[{n}]:{port}" if ":" in n else f"{n}:{port}" for n in numbers)


class Replicas(Generic[C]):
    def __init__(
        self,
        url: str,
        connect: Callable[[str], C],
        ready: Callable[[C], Awaitable[bool]],
        probe: Callable[[C], Awaitable[bool]],
        told: Callable[[int, int], None] = lambda usable, out: None,
        resolver: Callable[[str, int], Awaitable[list[str]]] = resolve,
    ) -> None:
        """``ready``: whether a new replica may have calls; ``probe``: whether it still answers.

        ``told`` gets how many are usable and how many are not."""
        self.host, self.port = named(url)
        self.connect, self.probes, self.told, self.resolver = connect, (ready, probe), told, resolver
        self.known: dict[str, Replica[C]] = {}
        self._leaving: dict[Replica[C], float] = {}  # and until when
        self._turn = 0
        self._tokens = RETRY_TOKENS
        self._watching: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    # --- what calls use

    async def ready(self) -> None:
        """Wait for the first answer of DNS, and look for replicas from then on."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        if not self.known:
            with suppress(OSError):
                await self._find()

    @contextmanager
    def borrow(self, key: str = "", avoid: Collection[Replica[C]] = (), what: str = "") -> Iterator[Replica[C]]:
        """A replica for the time of a call; LookupError where there is none. ``what``: what it must not lack.

        With a ``key`` it is the key's own (rendezvous hashing, Thaler and Ravishankar 1998) unless that has more than
        its share to do; without, the one with the least to do, in turn.
        """
        replica = self._pick(key, avoid, what)
        replica.running += 1
        try:
            yield replica
        finally:
            replica.running -= 1
            if replica.gone and not replica.running and replica not in self._leaving:
                self._close(replica)

    def without(self, replica: Replica[C], what: str, avoid: Collection[Replica[C]]) -> bool:
        """A replica has not what a call asks for (a version of a model, in an upgrade); whether another may have it."""
        replica.lacks[what] = time.monotonic() + LACKING_SECONDS
        return any(r not in avoid and r.has(what) for r in (*self.known.values(), *self._leaving))

    def answered(self) -> None:
        """A call went well: it earns a part of a retry."""
        self._tokens = min(RETRY_TOKENS, self._tokens + RETRY_RATIO)

    def lost(self, replica: Replica[C]) -> None:
        """A call could not reach its replica, or the replica broke it off: no more calls until it answers a probe."""
        replica.suspect = True
        self._wake.set()

    def again(self, avoid: Collection[Replica[C]]) -> bool:
        """Whether a call may be sent once more, to another than these."""
        others = [r for r in self.known.values() if r not in avoid]
        if self._tokens < 1 or not any(r.usable or r.unknown for r in others):
            return False
        self._tokens -= 1
        return True

    async def close(self) -> None:
        for task in (self._watching, self._finding):
            if task is not None:
                task.cancel()
        for replica in (*self.known.values(), *self._leaving):
            self._close(replica)
        self.known, self._leaving = {}, {}
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _pick(self, key: str, avoid: Collection[Replica[C]], what: str) -> Replica[C]:
        candidates = [r for r in self.known.values() if r not in avoid]
        if what and not any(r.usable and r.has(what) for r in candidates):
            candidates += [r for r in self._leaving if r not in avoid]
        candidates = [r for r in candidates if r.has(what)] or candidates
        # Where none is known to answer, any may: the call's own error says more than a guess.
        candidates = [r for r in candidates if r.usable] or [r for r in candidates if not r.gone] or candidates
        if not candidates:
            raise LookupError(f"{self.host}:{self.port} has no address")
        if key:
            most = max(FEW, math.ceil(BOUND * (sum(r.running for r in candidates) + 1) / len(candidates)))
            candidates.sort(key=lambda r: hashlib.blake2b(f"{key}|{r.address}".encode(), digest_size=8).digest())
            return next((r for r in candidates if r.running < most), candidates[0])
        self._turn += 1
        least = min(r.running for r in candidates)
        idle = [r for r in candidates if r.running == least]
        return idle[self._turn % len(idle)]

    # --- what runs beside them

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        found = checked = -math.inf
        while True:
            if loop.time() - found >= RESOLVE_SECONDS:
                if self._finding is None or self._finding.done():
                    self._finding = asyncio.create_task(self._find())
                # One that hangs must not hold the probes up.
                done, _ = await asyncio.wait([self._finding], timeout=PROBE_SECONDS)
                if done and (failure := self._finding.exception()) is not None:
                    if not isinstance(failure, OSError):
                        raise failure
                    # What is known stays: DNS being away takes no replica away.
                    log.debug("cannot resolve %s: %s", self.host, failure)
                found = loop.time()
            if loop.time() - checked >= len(self.known) / PROBES_A_SECOND:
                due, checked = list(self.known.values()), loop.time()
            else:
                due = [replica for replica in self.known.values() if not replica.usable]
            await asyncio.gather(*(self._check(replica) for replica in due))
            usable = sum(r.usable for r in self.known.values())
            self.told(usable, len(self.known) - usable)
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._wake.wait()

    async def _find(self) -> None:
        addresses = await self.resolver(self.host, self.port)
        for address in addresses:
            if address not in self.known:
                self.known[address] = Replica(address, self.connect(address))
        for address in self.known.keys() - set(addresses):
            replica = self.known.pop(address)
            replica.gone = True
            self._leaving[replica] = time.monotonic() + LEAVING_SECONDS
        for replica in [r for r, until in self._leaving.items() if until < time.monotonic()]:
            del self._leaving[replica]
            if not replica.running:
                self._close(replica)

    async def _check(self, replica: Replica[C]) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                well = await self.probes[replica.begun](replica.client)
        except Exception:
            well = False
        replica.begun = replica.begun or well
        replica.failed_probes = 0 if well else replica.failed_probes + 1
        out = replica.failed_probes >= (1 if replica.suspect or replica.out else FAILED_PROBES)
        if out != replica.out:
            log.log(logging.WARNING if out else logging.INFO, "%s %s", replica.address, "is out" if out else "is back")
        replica.out, replica.suspect = out, False

    def _close(self, replica: Replica[C]) -> None:
        task = asyncio.ensure_future(replica.client.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
