"""What the end-to-end tests share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.conftest import MODELS, TRITON_PYTHON
from tests.e2e.changing import Changing, genmesh_models, sources_of


def made(folder: Path, *names: str) -> Path:
    command = [str(TRITON_PYTHON), str(Path(__file__).parent / "make_checkpoints.py"), str(folder), *names]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama and a T5, and a smaller Llama for where any generator will do; tests leave them as they are."""
    return made(tmp_path_factory.mktemp("checkpoints"), "llama", "t5", "tiny")


@pytest.fixture(scope="session")
def all_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints of many shapes, made once a run; tests leave them as they are."""
    return made(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def changing(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Iterator[Changing]:
    """The cluster of all tests that replace models; its generator is tiny, for each of them loads it several times."""
    state = tmp_path_factory.mktemp("changing")
    shutil.copytree(MODELS, state / "models", ignore=lambda _, names: {"generator"} & {*names})
    cluster = Cluster(Layout(state, state / "models", TRITON_PYTHON), Ports.free())
    found = Changing.of(cluster, checkpoints / "tiny")
    built = genmesh_models(
        "build",
        "generator",
        "--into",
        found.models,
        "--catalogue",
        found.catalogue,
        **sources_of({"generator": found.generator}),
    )
    assert built.returncode == 0, built.stdout + built.stderr
    cluster.start(lambda text: None)
    try:
        yield found
    finally:
        cluster.stop()
