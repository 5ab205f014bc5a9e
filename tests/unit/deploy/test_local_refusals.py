"""What `make up` refuses before anything runs, each in one sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.local import cluster
from deploy.local.cluster import Cluster, ClusterError
from deploy.local.ports import Ports
from deploy.local.processes import Layout


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster with models and memory enough."""
    monkeypatch.setattr(cluster, "available_memory_mib", lambda: 100_000)
    card = tmp_path / "models" / "generator" / "model.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    return Cluster(Layout(tmp_path / "state", tmp_path / "models", Path("/bin/true")), Ports.free())


def refusal(cluster: Cluster) -> str:
    with pytest.raises(ClusterError) as failure:
        cluster.start(lambda text: None)
    assert not (cluster.layout.run / "supervisord.pid").exists()
    return str(failure.value)


def test_a_taken_port(refused: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "NEEDED", ())
    port = refused.ports["milvus"]
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        said = refusal(refused)
    assert f"Port {port}, which milvus needs, is taken by another program" in said
    assert "\n" not in said


def test_a_missing_program(refused: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert refusal(refused) == "The program redis-server is missing; install the Debian package redis-server."


def test_no_models(refused: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "NEEDED", ())
    (refused.layout.models / "generator" / "model.json").unlink()
    assert refusal(refused) == f"There are no models in {refused.layout.models}; run `make models`."
