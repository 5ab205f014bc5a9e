"""The Genmesh that is measured: a cluster of its own in a folder of its own, on free ports."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from loadtest.peers.setup import TRITON_PYTHON

TENANT = "bench"


@dataclass(frozen=True)
class Bench:
    """What a suite gets."""

    cluster: Cluster
    key: str
    checkpoint: Path  # the generator's full-precision weights
    logs: Path
    rounds: int
    quick: bool
    threads: int

    @property
    def models(self) -> Path:
        return self.cluster.layout.models

    def port(self, name: str) -> int:
        return self.cluster.ports[name]

    @property
    def secret(self) -> bytes:
        """What signs a tenant for the services."""
        return (self.cluster.layout.run / "identity-secret").read_text().strip().encode()


@contextmanager
def started(folder: Path, models: Path) -> Iterator[tuple[Cluster, str]]:
    """A cluster that runs, and the key of its tenant; stopped at the end."""
    cluster = Cluster(Layout(folder, models, TRITON_PYTHON), Ports.free())
    key = "gm_" + secrets.token_urlsafe(24)
    cluster.add_key(TENANT, key)
    try:
        cluster.start(lambda text: print(f"  {text}", flush=True))
        yield cluster, key
    finally:
        cluster.stop()
