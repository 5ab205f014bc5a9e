"""The GPU profile's model code on this machine's CPU, in float32, held against the cpu profile's built models."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genmesh_models import verification

from tests.conftest import MODELS, ROOT, TRITON_PYTHON
from tests.e2e.changing import catalogue_for
from tests.figures import Figure

RUN_MODEL = Path(__file__).parent / "run_gpu_model.py"
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
TEXTS = ["The quick brown fox jumps over the lazy dog.", "What is photosynthesis?", "Plants turn light into sugar."]
PAIRS = [
    ("What turns light into sugar?", "Plants turn light into sugar by photosynthesis."),
    ("What turns light into sugar?", "Paris is the capital of France."),
    ("Who jumps?", "The fox jumps over the dog. " * 40),
]


@pytest.fixture(scope="module")
def gpu_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("gpu") / "models"
    command = [str(TRITON_PYTHON.with_name("genmesh-models")), "build", "--profile", "gpu", "--into", str(into)]
    subprocess.run(command, check=True, env=OFFLINE)
    return into


def run(version: Path, request: dict[str, Any], folder: Path, *cancel_after: str) -> list[dict[str, np.ndarray]]:
    """The tensors of each response."""
    (folder / "request.json").write_text(json.dumps(request))
    command = [str(TRITON_PYTHON), str(RUN_MODEL), str(version), str(folder / "request.json"),
               str(folder / "responses.npz"), *cancel_after]  # fmt: skip
    done = subprocess.run(command, env=OFFLINE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    responses: list[dict[str, np.ndarray]] = []
    with np.load(folder / "responses.npz") as found:
        for key in found.files:
            number, name = key.split("/")
            while len(responses) <= int(number):
                responses.append({})
            responses[int(number)][name] = found[key]
    return responses


def both(gpu_models: Path, name: str, request: dict[str, Any], folder: Path) -> list[list[dict[str, np.ndarray]]]:
    """(the GPU profile's responses, the cpu profile's)."""
    found = []
    for models in (gpu_models, MODELS):
        version = json.loads((models / name / "model.json").read_text())["version"]
        found.append(run(models / name / version, request, folder))
    return found


def column(texts: list[str]) -> dict[str, Any]:
    return {"dtype": "BYTES", "data": [[text] for text in texts]}


def test_vectors_are_the_cpu_profiles(gpu_models: Path, tmp_path: Path, figure: Figure) -> None:
    (ours,), (theirs,) = both(gpu_models, "embedder", {"text": column(TEXTS)}, tmp_path)
    np.testing.assert_array_equal(ours["token_count"], theirs["token_count"])
    np.testing.assert_allclose(np.linalg.norm(ours["embedding"], axis=1), 1, atol=1e-5)
    cosines = (ours["embedding"] * theirs["embedding"]).sum(1)
    figure("embedder, gpu beside cpu: least cosine", float(cosines.min()))
    assert (cosines > 0.98).all()


def test_scores_are_the_cpu_profiles(gpu_models: Path, tmp_path: Path, figure: Figure) -> None:
    queries, passages = zip(*PAIRS, strict=True)
    request = {"query": column(list(queries)), "passage": column(list(passages))}
    (ours,), (theirs,) = both(gpu_models, "reranker", request, tmp_path)
    assert ours["score"].dtype == np.float32
    figure("reranker, gpu beside cpu: greatest difference of scores", float(abs(ours["score"] - theirs["score"]).max()))
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=0.06)


def test_a_colbert_scores_as_in_full_precision(all_checkpoints: Path, tmp_path: Path) -> None:
    # Weights drawn at random rank at random: rounding alone changes an nDCG that says nothing.
    catalogue_for(tmp_path / "models.yaml", reranker={"verify": {"ndcg_at_10": 0.3}})
    command = [str(TRITON_PYTHON.with_name("genmesh-models")), "build", "reranker", "--profile", "gpu"]
    command += ["--into", str(tmp_path / "models"), "--catalogue", str(tmp_path / "models.yaml")]
    subprocess.run(command, check=True, env=OFFLINE | {"GENMESH_RERANKER_SOURCE": str(all_checkpoints / "colbert")})
    expected = json.loads((all_checkpoints / "expected.json").read_text())
    query, texts = expected["texts"][0], expected["texts"]
    passages = [f"{text}, {text[:9]}." for text in texts]
    request = {"query": column([query] * len(texts)), "passage": column(passages)}
    (found,) = run(tmp_path / "models" / "reranker" / "1", request, tmp_path)
    assert found["score"].ravel().tolist() == pytest.approx([row[0] for row in expected["colbert"]], abs=0.01)


def test_upscaled_pixels_are_the_cpu_profiles(gpu_models: Path, tmp_path: Path, figure: Figure) -> None:
    y, x = np.mgrid[:96, :120] / 120
    image = (np.stack([x, (x + y > 0.9) * 0.8, 0.5 + 0.5 * np.sin(20 * x * y)], -1) * 255).astype(np.uint8)
    request = {"image": {"dtype": "uint8", "data": image.tolist()}}
    (ours,), (theirs,) = both(gpu_models, "upscaler", request, tmp_path)
    assert ours["image"].shape == (192, 240, 3)
    psnr = verification.psnr(ours["image"], theirs["image"])
    figure("upscaler, gpu beside cpu: PSNR", psnr, "dB")
    assert psnr > 30


def drawing(**other: int) -> dict[str, Any]:
    numbers = {"width": 64, "height": 64, "steps": 8, "seed": 7, "preview_every_steps": 4} | other
    kinds = {"seed": "int64"}
    return {
        "prompt": {"dtype": "BYTES", "data": ["a red circle"]},
        "guidance_scale": {"dtype": "float32", "data": [4.0]},
    } | {name: {"dtype": kinds.get(name, "int32"), "data": [value]} for name, value in numbers.items()}


def test_a_seed_draws_the_cpu_profiles_picture_step_by_step(gpu_models: Path, tmp_path: Path, figure: Figure) -> None:
    ours, theirs = both(gpu_models, "diffuser", drawing(), tmp_path)
    for responses in (ours, theirs):
        assert [int(r["step"][0]) for r in responses] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
        assert [i for i, r in enumerate(responses) if "image" in r] == [3, 8]
        assert [bool(r["final"][0]) for r in responses] == [False] * 8 + [True]
    for step in (3, 8):
        psnr = verification.psnr(ours[step]["image"], theirs[step]["image"])
        figure(f"diffuser, gpu beside cpu: PSNR after step {step + 1 if step < 8 else 8}", psnr, "dB")
        assert psnr > 22


def test_a_drawing_whose_client_leaves_ends_within_a_step(gpu_models: Path, tmp_path: Path) -> None:
    version = json.loads((gpu_models / "diffuser" / "model.json").read_text())["version"]
    responses = run(gpu_models / "diffuser" / version, drawing(), tmp_path, "3")
    assert [int(r["step"][0]) for r in responses] == [1, 2, 3]


def test_vllm_is_told_where_its_weights_are(gpu_models: Path) -> None:
    version = json.loads((gpu_models / "generator" / "model.json").read_text())["version"]
    arguments = json.loads((gpu_models / "generator" / version / "model.json").read_text())
    assert (gpu_models / arguments["model"] / "config.json").is_file()
    assert json.loads((gpu_models / "generator" / version / "multi_lora.json").read_text()) == {}
    template = json.loads((ROOT / "model_repository" / "gpu" / "generator" / "1" / "model.json").read_text())
    assert set(template) <= set(arguments)
