"""Another checkpoint takes a starter's place by one setting: Llama, Qwen and Stable Diffusion of other sizes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from genmesh import Client

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.conftest import MODELS, ROOT, TRITON_PYTHON


def build(into: Path, names: list[str], **sources: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {f"GENMESH_{name.upper()}_SOURCE": str(path) for name, path in sources.items()}
    command = [str(TRITON_PYTHON), str(ROOT / "model_repository" / "build.py"), "--into", str(into), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    subprocess.run([str(TRITON_PYTHON), str(Path(__file__).parent / "make_checkpoints.py"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def client(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("swapped")
    models = state / "models"
    for name in ("embedder", "reranker"):
        shutil.copytree(MODELS / name, models / name)
    done = build(models, ["generator", "diffuser"], generator=checkpoints / "llama", diffuser=checkpoints / "diffusion")
    assert done.returncode == 0, done.stdout + done.stderr
    cluster = Cluster(Layout(state, models, TRITON_PYTHON), Ports.free())
    key = "gm_" + secrets.token_urlsafe(24)
    cluster.add_key("alpha", key)
    cluster.start(lambda text: None)
    try:
        with Client(cluster.target, api_key=key) as found:
            yield found
    finally:
        cluster.stop()


@pytest.mark.timeout(400)
def test_a_llama_of_another_size_generates(client: Client, checkpoints: Path) -> None:
    model = client.models.GetModel({"name": "generator"}).model
    assert (model.ready, model.context_tokens, model.source) == (True, 512, str(checkpoints / "llama"))
    sampling = {"max_tokens": 12, "ignore_eos": True}
    whole = client.generation.Generate({"prompt": "seven wizards", "sampling": sampling})
    assert whole.usage.output_tokens == 12
    pieces = list(client.generation.StreamGenerate({"prompt": "seven wizards", "sampling": sampling}))
    assert "".join(p.text for p in pieces) == whole.text


def test_its_chat_template_and_begin_token_are_its_own(client: Client) -> None:
    messages = [{"role": "user", "content": "old bridges"}]
    rendered = client.tokenization.ApplyChatTemplate({"messages": messages})
    assert rendered.prompt == "<s><user>old bridges<assistant>"
    # The engine counts as the services do: the template's begin token is not doubled.
    chat = client.generation.Chat({"messages": messages, "sampling": {"max_tokens": 3}})
    assert chat.usage.input_tokens == rendered.token_count
    assert client.tokenization.Count({"texts": ["old bridges"], "add_special_tokens": True}).total == (
        client.tokenization.Count({"texts": ["old bridges"]}).total + 1
    )


def test_answers_stay_right_about_their_sources_with_a_generator_that_babbles(client: Client) -> None:
    document = {
        "id": "mill.txt",
        "text": "The mill was sold to Tessa Brandt in 1954. The mill pond is four metres deep.",
    }
    list(client.rag.Ingest(iter([{"document": document}])))
    answer = client.rag.Answer({"question": "Who was the mill sold to?"})
    assert "Tessa Brandt" in answer.text
    assert answer.citations[0].quote == "The mill was sold to Tessa Brandt in 1954."
    assert not client.rag.Answer({"question": "What is the speed of light?"}).answered


def test_a_diffusion_pipeline_of_another_size_draws(client: Client) -> None:
    image = client.diffusion.GenerateImage({"prompt": "anything", "steps": 3}).image
    assert (image.width, image.height) == (96, 96)
    assert image.data.startswith(b"\x89PNG")


@pytest.mark.timeout(400)
def test_a_qwen_builds_too_and_a_stranger_is_refused_with_a_sentence(checkpoints: Path, tmp_path: Path) -> None:
    done = build(tmp_path / "models", ["generator"], generator=checkpoints / "qwen")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "generator" / "model.json").read_text())
    assert (card["context_tokens"], card["precision"]) == (256, "int8")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    refused = build(tmp_path / "models", ["generator"], generator=stranger)
    assert refused.returncode == 1
    assert "checkpoint of type 'rwkv'" in refused.stderr
    missing = build(tmp_path / "models", ["generator"], generator=tmp_path / "nowhere")
    assert "there is no folder" in missing.stderr
    # What was there before is still there, whole.
    assert json.loads((tmp_path / "models" / "generator" / "model.json").read_text()) == card
