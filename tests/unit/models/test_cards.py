"""What the services' pods get of the models."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from genmesh_models.catalogue import REPOSITORY

from services.runtime.models import Catalogue


def built(folder: Path, name: str, version: str) -> None:
    weights = folder / name / version / "weights"
    weights.mkdir(parents=True)
    (weights / "tokenizer.json").write_text("{}")
    (weights / "openvino_model.bin").write_bytes(b"0" * 1000)
    (weights.parent / "model.py").write_text("pass")
    files = {file.name: sha256(file.read_bytes()).hexdigest() for file in weights.iterdir()}
    figure = {"name": "top1_agreement", "value": 0.99, "bound": 0.9, "at_least": True}
    card = {
        "name": name,
        "task": "generate",
        "version": version,
        "revision": "r",
        "files": files,
        "code": {"model.py": sha256(b"pass").hexdigest()},
        "verification": [figure],
    }
    (folder / name / "model.json").write_text(json.dumps(card))


def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "cards.py"), *map(str, arguments)]
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


def test_code_that_is_not_what_was_verified_is_told(tmp_path: Path) -> None:
    built(tmp_path, "generator", "3")
    (tmp_path / "generator" / "3" / "model.py").write_text("import os")
    ran = run("--verify", tmp_path)
    assert ran.returncode == 1
    assert "generator version 3: model.py is not the file that was verified" in ran.stdout


def test_an_image_has_the_active_versions_alone(tmp_path: Path) -> None:
    for version in ("2", "4", "3"):
        built(tmp_path, "generator", version)  # the last one's card is the active one's
    assert run("--active", tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "generator").iterdir()) == ["3", "model.json"]
    assert run("--verify", tmp_path).returncode == 0


def test_no_models_are_said(tmp_path: Path) -> None:
    ran = run(tmp_path, tmp_path / "cards")
    assert ran.returncode == 1
    assert "There are no models" in ran.stderr


def test_models_that_are_not_what_was_verified_are_told(tmp_path: Path) -> None:
    for name in ("embedder", "generator", "reranker"):
        built(tmp_path, name, "1")
    sound = run("--verify", tmp_path)
    assert sound.returncode == 0
    assert sound.stdout.splitlines()[0] == "embedder version 1: verified"
    (tmp_path / "embedder" / "1" / "weights" / "openvino_model.bin").write_bytes(b"0" * 10)
    (tmp_path / "embedder" / "1" / "weights" / "tokenizer.json").unlink()
    card = json.loads((tmp_path / "reranker" / "model.json").read_text())
    card["verification"][0] |= {"value": 0.5}
    (tmp_path / "reranker" / "model.json").write_text(json.dumps(card))
    broken = run("--verify", tmp_path)
    assert broken.returncode == 1
    embedder, generator, reranker = broken.stdout.splitlines()
    assert "openvino_model.bin is not the file that was verified" in embedder
    assert "tokenizer.json is missing" in embedder
    assert generator == "generator version 1: verified"
    assert reranker == "reranker version 1: top1_agreement is 0.5000, must be at least 0.9000"
    assert "There are no models" in run("--verify", tmp_path / "none").stderr
