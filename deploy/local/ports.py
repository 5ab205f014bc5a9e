"""Which port each part listens on."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass

SERVICES = ("gateway", "tokenization", "embedding", "vector_search", "generation", "diffusion", "rag")
# gRPC (or the part's own protocol), and metrics 1,000 above for the services.
DEFAULTS = {
    "gateway": 8080,
    "tokenization": 8101,
    "embedding": 8102,
    "vector_search": 8103,
    "generation": 8104,
    "diffusion": 8105,
    "rag": 8106,
    "triton": 8001,
    "triton_http": 8000,
    "triton_metrics": 8002,
    "redis": 6380,
    "milvus": 19530,
    "milvus_metrics": 9091,
    "redis_exporter": 9121,
    "prometheus": 9090,
    "status": 8090,
}


# Where systems take no port from for a connection's own end, nor Kubernetes for its nodes: a server that restarts would find
# its port taken by whoever connected to anything meanwhile.
FREE = range(10_000, 30_000)


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses now."""
    found: list[socket.socket] = []
    try:
        while len(found) < count:
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", secrets.choice(FREE)))
                found.append(one)
            except OSError:
                one.close()
        return [int(one.getsockname()[1]) for one in found]
    finally:
        for one in found:
            one.close()


def free_port() -> int:
    """One that nothing uses now."""
    (port,) = free_ports(1)
    return port


@dataclass(frozen=True)
class Ports:
    """Ports by name; ``metrics_NAME`` for the services."""

    by_name: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.by_name[name]

    @classmethod
    def fixed(cls, offset: int = 0) -> Ports:
        """The documented ports, moved by an offset."""
        found = {name: port + offset for name, port in DEFAULTS.items()}
        found |= {f"metrics_{name}": DEFAULTS[name] + 1000 + offset for name in SERVICES}
        return cls(found)

    @classmethod
    def free(cls) -> Ports:
        """Ports that nothing uses now, for tests."""
        names = [*DEFAULTS, *(f"metrics_{name}" for name in SERVICES)]
        return cls(dict(zip(names, free_ports(len(names)), strict=True)))

    def taken(self) -> dict[str, int]:
        """The ports that something listens on now."""
        found = {}
        for name, port in self.by_name.items():
            with socket.socket() as probe:
                # As the servers do; without it a port in TIME_WAIT would look taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    found[name] = port
        return found
