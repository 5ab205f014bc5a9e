"""What the services' pods get of the models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from genmesh_models.catalogue import REPOSITORY

from services.runtime.models import Catalogue


def built(folder: Path, name: str, version: str) -> None:
    weights = folder / name / version / "weights"
    weights.mkdir(parents=True)
    (weights / "tokenizer.json").write_text("{}")
    (weights / "openvino_model.bin").write_bytes(b"0" * 1000)
    card = {"name": name, "task": "generate", "version": version, "revision": "r"}
    (folder / name / "model.json").write_text(json.dumps(card))


def run(models: Path, into: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "cards.py"), str(models), str(into)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cards_and_tokenizers_are_copied_and_no_weights(tmp_path: Path) -> None:
    models, into = tmp_path / "models", tmp_path / "cards"
    built(models, "generator", "3")
    (models / "generator" / "2").mkdir()
    adapter = models / "generator" / "adapters" / "polite"
    adapter.mkdir(parents=True)
    (adapter / "adapter.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"0")
    assert run(models, into).returncode == 0
    assert sorted(str(p.relative_to(into)) for p in into.rglob("*") if p.is_file()) == [
        "generator/3/weights/tokenizer.json", "generator/adapters/polite/adapter.json", "generator/model.json"
    ]  # fmt: skip
    assert Catalogue(into).cards["generator"].version == "3"


def test_no_models_are_said(tmp_path: Path) -> None:
    ran = run(tmp_path, tmp_path / "cards")
    assert ran.returncode == 1
    assert "There are no models" in ran.stderr
