"""One cluster for all tests here, with the chart installed as `make cluster-up` does.

A cluster that runs already is used as it is and left running where GENMESH_CLUSTER_KEEP is set (while writing a test);
otherwise it is started anew and taken away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.cluster import ROOT, Cluster
from deploy.cluster.nodes import WORKERS


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = Cluster(ROOT / ".state" / "cluster", ROOT / ".state" / "tools")
    keep = bool(os.environ.get("GENMESH_CLUSTER_KEEP"))
    try:
        if not (keep and found.running):
            found.start(lambda text: None)
        else:
            for worker in WORKERS:
                found.bring(worker, found.images())
        found.install()
        yield found
    finally:
        if not keep:
            found.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "load"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pods take their time to come and go."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(500))
