"""Another checkpoint takes a starter's place by one setting: generators, encoders and pipelines of other shapes and sizes."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from genmesh import Client
from genmesh.errors import InvalidArgument

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.conftest import MODELS, ROOT, TRITON_PYTHON


def build(
    into: Path, names: list[str], *, catalogue: Path | None = None, **sources: Path
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {f"GENMESH_{name.upper()}_SOURCE": str(path) for name, path in sources.items()}
    command = [str(TRITON_PYTHON.with_name("genmesh-models")), "build", "--into", str(into), *names]
    command += ["--catalogue", str(catalogue)] if catalogue else []
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def served(state: Path, **sources: Path) -> Iterator[Client]:
    """A client of a cluster in which these checkpoints have taken the default ones' places."""
    models = state / "models"
    shutil.copytree(MODELS, models, ignore=shutil.ignore_patterns(*sources))
    # Weights drawn at random rank at random: rounding alone changes an nDCG that says nothing, and INT8, which a processor
    # with AMX computes otherwise than one without, puts a vector's cosine anywhere from 0.97 on.
    entries = yaml.safe_load((ROOT / "model_repository" / "models.yaml").read_text())
    for name in ("embedder", "reranker"):
        entries[name] |= {"precision": "fp32", "verify": {"ndcg_at_10": 0.2}}
    catalogue = state / "models.yaml"
    catalogue.write_text(yaml.safe_dump(entries, sort_keys=False))
    done = build(models, list(sources), catalogue=catalogue, **sources)
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


@pytest.fixture(scope="module")
def client(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    sources = {"generator": checkpoints / "llama", "diffuser": checkpoints / "diffusion"}
    with served(tmp_path_factory.mktemp("swapped"), **sources) as found:
        yield found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("embedder", "others"),
    [
        ("bert-cls", {"reranker": "xlmr-cross", "generator": "gpt2"}),
        ("bert-mean", {"reranker": "bert-mean"}),
        ("xlmr-last", {"reranker": "colbert"}),
    ],
)
def test_other_encoders_and_a_gpt2(embedder: str, others: dict[str, str], checkpoints: Path, tmp_path: Path) -> None:
    """CLS (and a Dense module), mean and last-token pooling, WordPiece and Unigram, a cross-encoder, late interaction and
    a ColBERT; against transformers in float32."""
    expected = json.loads((checkpoints / "expected.json").read_text())
    texts = expected["texts"]
    sources = {name: checkpoints / folder for name, folder in {"embedder": embedder, **others}.items()}
    with served(tmp_path, **sources) as client:
        answer = client.embedding.Embed({"inputs": texts})
        vectors = np.array([result.embedding.values for result in answer.results])
        cosines = vectors @ np.array(expected[embedder]).T
        assert (np.diag(cosines) > 0.99).all(), cosines
        assert (cosines.argmax(1) == np.arange(len(texts))).all()
        # A context shorter than the catalogue's is the checkpoint's own.
        context = client.models.GetModel({"name": "embedder"}).model.context_tokens
        assert context == (128 if embedder == "xlmr-last" else 40)
        long = client.embedding.Embed({"inputs": [" ".join(texts * 20)], "reject_overlong": True}).results[0]
        assert long.error.reason == "INPUT_TOO_LONG"
        if "reranker" in others:
            marked = others["reranker"] == "colbert"
            passages = [f"{text}, {text[:9]}." for text in texts] if marked else texts
            ranked = client.embedding.Rerank({"query": texts[0], "passages": passages}).passages
            scores = [passage.score for passage in sorted(ranked, key=lambda p: p.index)]
            wanted = expected["late" if others["reranker"] == "bert-mean" else others["reranker"]]
            assert scores == pytest.approx([row[0] for row in wanted], abs=0.03)
        if "generator" in others:
            request = {"prompt": texts[0], "sampling": {"max_tokens": 9, "ignore_eos": True}}
            assert client.generation.Generate(request).usage.output_tokens == 9
            assert client.models.GetModel({"name": "generator"}).model.context_tokens == 192
            an_adapter_is_learnt_and_used(client, sources["generator"], tmp_path)


def an_adapter_is_learnt_and_used(client: Client, generator: Path, folder: Path) -> None:
    """LoRA fits other architectures than the starter's too; GPT-2 keeps its weights the other way round."""
    question, answer = "the quick brown fox", "old bridges brew strong potions"
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    (folder / "chats.jsonl").write_text((json.dumps({"messages": chat}) + "\n") * 8)
    command = [str(TRITON_PYTHON.with_name("genmesh-models")), "finetune", "generator", "bridges"]
    command += [
        "--data",
        str(folder / "chats.jsonl"),
        "--into",
        str(folder / "models"),
        "--epochs",
        "120",
        "--rate",
        "1e-2",
    ]
    environment = os.environ | {"GENMESH_GENERATOR_SOURCE": str(generator)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    request = {"messages": chat[:1], "sampling": {"max_tokens": 24}}
    told = client.generation.Chat(request | {"adapter": "bridges"}).message.content
    assert answer in told, done.stdout
    assert answer not in client.generation.Chat(request).message.content


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("generator", "embedder"), [("t5", "static"), ("bart", "glove")])
def test_encoder_decoders_and_token_tables(generator: str, embedder: str, checkpoints: Path, tmp_path: Path) -> None:
    """T5 over SentencePiece's Unigram and BART over BPE write what transformers does; tables pool as their definition says."""
    written = json.loads((checkpoints / "written.json").read_text())
    tables = json.loads((checkpoints / "tables.json").read_text())
    with served(tmp_path, generator=checkpoints / generator, embedder=checkpoints / embedder) as client:
        for prompt, text in zip(written["prompts"], written[generator], strict=True):
            request = {"prompt": prompt, "sampling": {"max_tokens": 12}}
            whole = client.generation.Generate(request)
            # The start token is the first of transformers' twelve; ours are twelve that were written.
            assert whole.text.startswith(text.strip()) or text.strip().startswith(whole.text)
            pieces = list(client.generation.StreamGenerate(request))
            assert "".join(p.text for p in pieces) == whole.text
            assert len(pieces) > 3
        model = client.models.GetModel({"name": "generator"}).model
        assert (model.engine, model.ready) == ("openvino-seq2seq", True)
        # Prompt and answer do not share the context.
        room = model.context_tokens - 1
        long = client.generation.Generate(
            {"prompt": prompt, "sampling": {"max_tokens": model.context_tokens, "ignore_eos": True}}
        )
        assert long.usage.output_tokens == room
        with pytest.raises(InvalidArgument) as failure:
            client.generation.Generate({"prompt": "fox " * 200})
        assert failure.value.reason == "PROMPT_TOO_LONG"
        answer = client.embedding.Embed({"inputs": tables["texts"]})
        vectors = np.array([result.embedding.values for result in answer.results])
        assert (vectors * np.array(tables[embedder])).sum(1) == pytest.approx(1, abs=2e-3)
        assert client.models.GetModel({"name": "embedder"}).model.engine == "static"


def test_a_model2vec_table_builds_too(checkpoints: Path, tmp_path: Path) -> None:
    done = build(tmp_path / "models", ["embedder"], embedder=checkpoints / "model2vec")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "embedder" / "model.json").read_text())
    assert (card["engine"], card["dimension"]) == ("static", 24)


def test_a_model_that_does_not_verify_is_not_put_in_place(checkpoints: Path, tmp_path: Path) -> None:
    catalogue = yaml.safe_load((ROOT / "model_repository" / "models.yaml").read_text())
    catalogue["embedder"]["verify"] = {"cosine_mean": 1.01}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(catalogue))
    refused = build(
        tmp_path / "models", ["embedder"], catalogue=tmp_path / "models.yaml", embedder=checkpoints / "bert-cls"
    )
    assert refused.returncode == 1
    assert re.search(r"embedder: verification failed: cosine_mean is [01]\.\d+, must be at least 1\.01", refused.stderr)
    assert not (tmp_path / "models" / "embedder").exists()


@pytest.mark.timeout(900)
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


@pytest.mark.timeout(900)
def test_their_relatives_are_loaded_too(checkpoints: Path, tmp_path: Path) -> None:
    """In float32 a built network says what transformers' does, so the figures of its verification are those of no loss."""
    kinds = {
        "embed": ("distilbert", "electra", "mpnet", "roberta"), "generate": ("qwen3", "mistral-window", "mt5", "mbart"),
    }  # fmt: skip
    wanted = [f"{task}={checkpoints / name}" for task, names in kinds.items() for name in names]
    script = Path(__file__).with_name("build_kinds.py")
    done = subprocess.run(
        [str(TRITON_PYTHON), str(script), str(tmp_path), *wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    built = json.loads(done.stdout.splitlines()[-1])
    for name in kinds["embed"]:
        figures = {f["name"]: f["value"] for f in built[name]["verification"]}
        assert figures["cosine_min"] > 0.9999, name
        assert (built[name]["dimension"], built[name]["context_tokens"]) == (
            48,
            128 if name in ("mpnet", "roberta") else 40,
        )
    for name in kinds["generate"]:
        figures = {f["name"]: f["value"] for f in built[name]["verification"]}
        assert figures["top1_agreement"] > 0.99, name
        assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-3), name
        assert built[name]["architecture"] == name.partition("-")[0]
    assert (tmp_path / "mt5" / "tokenizer.json").is_file()  # made of its SentencePiece model


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("folder", "precision", "bytes_a_parameter"),
    [("mistral", "int4-weights", 1.0), ("llama", "int4-awq", 1.0), ("gpt2", "int8", 1.7)],
)
def test_decoders_of_fewer_bits(
    folder: str, precision: str, bytes_a_parameter: float, checkpoints: Path, tmp_path: Path
) -> None:
    catalogue = yaml.safe_load((ROOT / "model_repository" / "models.yaml").read_text())
    # Nothing was trained, so fewer bits change what is likeliest; the figures are for the table, not for a bound.
    catalogue["generator"] |= {"precision": precision, "verify": {"top1_agreement": 0.1, "perplexity_ratio": 2}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(catalogue))
    done = build(tmp_path / "models", ["generator"], catalogue=tmp_path / "models.yaml", generator=checkpoints / folder)
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "generator" / "model.json").read_text())
    assert (card["precision"], card["architecture"]) == (precision, folder)
    weights = tmp_path / "models" / "generator" / "1" / "weights" / "openvino_model.bin"
    assert weights.stat().st_size < bytes_a_parameter * card["parameter_count"]


@pytest.mark.timeout(900)
def test_a_qwen_builds_too_and_a_stranger_is_refused_with_a_sentence(checkpoints: Path, tmp_path: Path) -> None:
    done = build(tmp_path / "models", ["generator"], generator=checkpoints / "qwen")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "models" / "generator" / "model.json").read_text())
    assert (card["context_tokens"], card["precision"]) == (256, "int8-weights")
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
