"""A real cluster (Triton, Redis, Milvus, the seven services) on free ports, once a test run."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from genmesh import Client
from genmesh.aio import Client as AsyncClient
from genmesh.errors import NotFound

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.figures import figure as figure  # a fixture of all tests
from tests.tracing_receiver import Receiver, receiving

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".state"
MODELS = STATE / "models"
TRITON_PYTHON = STATE / "venv" / "triton" / "bin" / "python"


@dataclass(frozen=True)
class Running:
    """A cluster that runs, and a key for each of two tenants."""

    cluster: Cluster
    alpha: str
    beta: str

    @property
    def target(self) -> str:
        return self.cluster.target

    def client(self, key: str | None = None) -> Client:
        return Client(self.target, api_key=self.alpha if key is None else key)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """What the shared cluster's services and Triton send of traced calls."""
    with receiving() as found:
        yield found


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    layout = Layout(tmp_path_factory.mktemp("cluster"), MODELS, TRITON_PYTHON)
    cluster = Cluster(layout, Ports.free())
    keys = {tenant: "gm_" + secrets.token_urlsafe(24) for tenant in ("alpha", "beta")}
    for tenant, key in keys.items():
        cluster.add_key(tenant, key)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in receiver.environment.items():
            patch.setenv(name, value)
        cluster.start(lambda text: None)
    try:
        yield Running(cluster, **keys)
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def client(running: Running) -> Iterator[Client]:
    """A sync client of tenant alpha."""
    with running.client() as found:
        yield found


@pytest.fixture
async def async_client(running: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.target, api_key=running.alpha) as found:
        yield found


@pytest.fixture
def raw(running: Running) -> Iterator[grpc.Channel]:
    """A bare channel to the gateway, for messages that no client would send."""
    with grpc.insecure_channel(running.target) as channel:
        yield channel


@pytest.fixture
def collection(client: Client) -> Iterator[str]:
    """The name of a collection that is gone afterwards."""
    name = "test-" + secrets.token_hex(4)
    yield name
    with contextlib.suppress(NotFound):
        client.vector_search.DeleteCollection({"collection": name})
