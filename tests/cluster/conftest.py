"""One cluster for all tests here, with the chart installed as `make cluster-up` does.

A cluster that runs already is used as it is and left running if CLUSTER_KEEP is set (while writing a test);
otherwise it is started anew and taken away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import ROOT, Cluster

SECONDS = pytest.StashKey[float]()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    found = Cluster(ROOT / ".state" / "cluster", ROOT / ".state" / "tools")
    keep = bool(os.environ.get("CLUSTER_KEEP"))
    begun = time.monotonic()
    try:
        if not (keep and found.running):
            found.start(lambda text: None)
        else:
            archives = found.images()
            for worker in found.workers:
                found.bring(worker, archives)
        found.install()
        request.config.stash[SECONDS] = time.monotonic() - begun
        yield found
    finally:
        if not keep:
            found.stop()


@pytest.fixture(scope="session")
def seconds_to_answer(cluster: Cluster, request: pytest.FixtureRequest) -> float:
    """From nothing, tools and images at hand, to pods that are ready."""
    return request.config.stash[SECONDS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "load"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pods take their time to come and go."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(500))
