"""Checkpoints of many shapes are built, verified, and refused with a sentence; no cluster serves them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TRITON_PYTHON
from tests.e2e.changing import CATALOGUE, UNTRAINED, catalogue_for, genmesh_models, sources_of

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds are what is tested: none is taken from the machine's cache."""
    monkeypatch.setenv("GENMESH_CACHE", str(tmp_path / "genmesh-cache"))


def build(into: Path, *, catalogue: Path = CATALOGUE, **sources: Path) -> subprocess.CompletedProcess[str]:
    return genmesh_models("build", *sources, "--into", into, "--catalogue", catalogue, **sources_of(sources))


def test_a_model2vec_table_builds_too(all_checkpoints: Path, tmp_path: Path) -> None:
    done = build(tmp_path / "models", embedder=all_checkpoints / "model2vec")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "embedder" / "model.json").read_text())
    assert (card["engine"], card["dimension"]) == ("static", 24)


def test_a_model_that_does_not_verify_is_not_put_in_place(all_checkpoints: Path, tmp_path: Path) -> None:
    catalogue = catalogue_for(tmp_path / "models.yaml", embedder={"verify": {"cosine_mean": 1.01}})
    refused = build(tmp_path / "models", catalogue=catalogue, embedder=all_checkpoints / "bert-cls")
    assert refused.returncode == 1
    assert re.search(r"embedder: verification failed: cosine_mean is [01]\.\d+, must be at least 1\.01", refused.stderr)
    assert not (tmp_path / "models" / "embedder").exists()


def test_their_relatives_are_loaded_too(all_checkpoints: Path, tmp_path: Path) -> None:
    """In float32 a built network says what transformers' does, so the figures of its verification are those of no loss."""
    kinds = {
        "embed": ("distilbert", "electra", "mpnet", "roberta"), "generate": ("qwen3", "mistral-window", "mt5", "mbart"),
    }  # fmt: skip
    wanted = [f"{task}={all_checkpoints / name}" for task, names in kinds.items() for name in names]
    script = Path(__file__).with_name("build_kinds.py")
    done = subprocess.run(
        [str(TRITON_PYTHON), str(script), str(tmp_path), *wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    built = json.loads(done.stdout.splitlines()[-1])
    for name in kinds["embed"]:
        figures = {f["name"]: f["value"] for f in built[name]["verification"]}
        assert figures["cosine_min"] > 0.9999, name
        assert built[name]["dimension"] == 48
        assert built[name]["context_tokens"] == (128 if name in ("mpnet", "roberta") else 40)
    for name in kinds["generate"]:
        figures = {f["name"]: f["value"] for f in built[name]["verification"]}
        assert figures["top1_agreement"] > 0.99, name
        assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-3), name
        assert built[name]["architecture"] == name.partition("-")[0]
    assert (tmp_path / "mt5" / "tokenizer.json").is_file()  # made of its SentencePiece model


@pytest.mark.parametrize(
    ("folder", "precision", "bytes_a_parameter"),
    [("mistral", "int4-weights", 1.0), ("llama", "int4-awq", 1.0), ("gpt2", "int8", 1.7)],
)
def test_decoders_of_fewer_bits(
    folder: str, precision: str, bytes_a_parameter: float, all_checkpoints: Path, tmp_path: Path
) -> None:
    catalogue = catalogue_for(tmp_path / "models.yaml", generator={"precision": precision, "verify": UNTRAINED})
    done = build(tmp_path / "models", catalogue=catalogue, generator=all_checkpoints / folder)
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "generator" / "model.json").read_text())
    assert (card["precision"], card["architecture"]) == (precision, folder)
    weights = tmp_path / "models" / "generator" / "1" / "weights" / "openvino_model.bin"
    assert weights.stat().st_size < bytes_a_parameter * card["parameter_count"]


def test_a_qwen_builds_too_and_a_stranger_is_refused_with_a_sentence(all_checkpoints: Path, tmp_path: Path) -> None:
    catalogue = catalogue_for(tmp_path / "models.yaml", generator={"verify": UNTRAINED})
    done = build(tmp_path / "models", catalogue=catalogue, generator=all_checkpoints / "qwen")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "generator" / "model.json").read_text())
    assert (card["context_tokens"], card["precision"]) == (256, "int8-weights")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    refused = build(tmp_path / "models", generator=stranger)
    assert refused.returncode == 1
    assert "checkpoint of type 'rwkv'" in refused.stderr
    missing = build(tmp_path / "models", generator=tmp_path / "nowhere")
    assert "there is no folder" in missing.stderr
    # What was there before is still there, whole.
    assert json.loads((tmp_path / "models" / "generator" / "model.json").read_text()) == card
