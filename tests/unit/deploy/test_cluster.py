"""What keeps a cluster from starting is said before anything runs."""

from pathlib import Path

import pytest

from deploy.local import cluster
from deploy.local.cluster import Cluster, ClusterError
from deploy.local.ports import Ports
from deploy.local.processes import Layout


def test_too_little_memory_is_one_sentence_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "available_memory_mib", lambda: 512)
    card = tmp_path / "models" / "generator" / "model.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    layout = Layout(tmp_path / "state", tmp_path / "models", Path("/bin/true"))
    with pytest.raises(ClusterError) as failure:
        Cluster(layout, Ports.free()).start(lambda text: None)
    assert "3000 MiB" in str(failure.value)
    assert "512 MiB" in str(failure.value)
    assert not (layout.run / "supervisord.pid").exists()
