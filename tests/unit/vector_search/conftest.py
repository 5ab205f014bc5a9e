"""The built-in store in a process of its own, and two replicas of the service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from deploy.local.ports import Ports
from services.runtime import identity
from services.runtime.metrics import VectorSearch
from services.vector_search.servicer import VectorSearchServicer
from services.vector_search.store import Store
from tests.waiting import until

SERVER = Path(__file__).parents[3] / "deploy" / "images" / "vector_store.py"


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built-in store's."""
    port = Ports.free()["milvus"]
    command = [sys.executable, SERVER, "--data-dir", tmp_path_factory.mktemp("store"), "--port", str(port)]
    process, found = subprocess.Popen(command), f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            MilvusClient(found, timeout=2).close()
        except MilvusException:
            return False
        return True

    try:
        until(answers)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def replicas(address: str) -> AsyncIterator[list[VectorSearchServicer]]:
    stores = [Store(address, "", VectorSearch("vector_search", CollectorRegistry()), 60.0) for _ in range(2)]
    identity.enter(identity.Call("acme", "", ""))
    yield [VectorSearchServicer(store) for store in stores]
    for store in stores:
        await store.close()
