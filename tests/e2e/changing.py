"""A cluster with a model repository of its own, in which tests replace models while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from genmesh import Client

from deploy.local.cluster import Cluster
from tests.conftest import ROOT, TRITON_PYTHON
from tests.waiting import until

COMMAND = str(TRITON_PYTHON.with_name("genmesh-models"))
CATALOGUE = ROOT / "model_repository" / "models.yaml"

# Bounds for a generator that nobody trained: fewer bits change what is likeliest.
UNTRAINED = {"top1_agreement": 0.1, "perplexity_ratio": 2}

# Tokens: more than a test waits for, so that a request runs until it is cancelled.
LONG = 32768


def genmesh_models(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def sources_of(sources: Mapping[str, str | Path]) -> dict[str, str]:
    """The environment that names other checkpoints for models of the catalogue."""
    return {f"GENMESH_{name.upper()}_SOURCE": str(path) for name, path in sources.items()}


def catalogue_for(path: Path, **changes: dict[str, Any]) -> Path:
    """The catalogue with some keys of some models changed."""
    entries = yaml.safe_load(CATALOGUE.read_text())
    for name, change in changes.items():
        entries[name] |= change
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


def in_float32(path: Path, generator: str = "fp32") -> Path:
    """A catalogue for checkpoints with random weights: fewer bits may change what they say, and their ranking says
    nothing."""
    return catalogue_for(
        path,
        embedder={"precision": "fp32", "verify": {"ndcg_at_10": 0.2}},
        reranker={"precision": "fp32", "verify": {"ndcg_at_10": 0.2}},
        generator={"precision": generator, "verify": UNTRAINED, "context_tokens": LONG},
        diffuser={"precision": "fp32"},
    )


@dataclass(frozen=True)
class Changing:
    """The cluster; after each test the generator that it began with answers again, beside the models of ``make models``."""

    cluster: Cluster
    catalogue: Path
    generator: Path

    @classmethod
    def of(cls, cluster: Cluster, generator: Path) -> Changing:
        return cls(cluster, in_float32(cluster.layout.state / "models.yaml"), generator)

    @property
    def models(self) -> Path:
        return self.cluster.layout.models

    @property
    def triton(self) -> str:
        return f"127.0.0.1:{self.cluster.ports['triton']}"

    def client(self) -> Client:
        return Client(self.cluster.target, api_key=self.cluster.development_key())

    def card(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.models / name / "model.json").read_text())
        return found

    def command(self, verb: str, *arguments: str | Path, **sources: str | Path) -> subprocess.CompletedProcess[str]:
        """A command that Triton is told of."""
        told = ["--into", self.models, "--triton", self.triton]
        return genmesh_models(verb, *arguments, *told, **sources_of(sources))

    def finetune(self, name: str, data: Path, *options: str | Path) -> None:
        """An adapter for the generator that it began with."""
        arguments = [name, "--data", data, "--into", self.models, "--catalogue", self.catalogue, *options]
        done = genmesh_models("finetune", "generator", *arguments, **sources_of({"generator": self.generator}))
        assert done.returncode == 0, done.stderr

    def build(self, catalogue: Path | None = None, **sources: str | Path) -> None:
        """Have these checkpoints answer in the place of models."""
        done = self.command("build", *sources, "--catalogue", catalogue or self.catalogue, **sources)
        assert done.returncode == 0, done.stdout + done.stderr
        # A build that a test went back from is still there.
        for name, version in re.findall(r"genmesh-models rollback (\S+) --to (\d+)", done.stdout):
            self.go_to(name, version)

    def go_to(self, name: str, version: str) -> None:
        done = self.command("rollback", name, "--to", version)
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def swapped(self, catalogue: Path | None = None, **sources: str | Path) -> Iterator[Client]:
        """A client of the cluster while these checkpoints have taken models' places."""
        before = {name: self.card(name)["version"] for name in sources}
        try:
            self.build(catalogue, **sources)
            with self.client() as client:
                for name in sources:
                    self.answers(client, name)
                yield client
        finally:
            for name, version in before.items():
                self.go_to(name, version)
            with self.client() as client:
                for name in sources:
                    self.answers(client, name)

    def answers(self, client: Client, name: str) -> Any:
        """The model that answers, once it is the active version."""
        version = self.card(name)["version"]

        def there() -> bool:
            model = client.models.GetModel({"name": name}).model
            return bool(model.ready and model.version == version)

        until(there, 300)
        return client.models.GetModel({"name": name}).model
