"""Another checkpoint takes a starter's place by one setting, while the cluster runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from genmesh import Client
from genmesh.errors import FailedPrecondition, InvalidArgument

from tests.e2e.changing import Changing, in_float32
from tests.figures import Figure

pytestmark = pytest.mark.timeout(900)


def test_a_llama_of_another_size(changing: Changing, checkpoints: Path) -> None:
    with changing.swapped(generator=checkpoints / "llama") as client:
        model = client.models.GetModel({"name": "generator"}).model
        assert (model.ready, model.context_tokens, model.source) == (True, 512, str(checkpoints / "llama"))
        request = {"prompt": "seven wizards", "sampling": {"max_tokens": 12, "ignore_eos": True}}
        whole = client.generation.Generate(request)
        assert whole.usage.output_tokens == 12
        assert "".join(piece.text for piece in client.generation.StreamGenerate(request)) == whole.text
        chat_template_and_begin_token_are_its_own(client)
        answers_stay_right_with_a_generator_that_babbles(client)


def chat_template_and_begin_token_are_its_own(client: Client) -> None:
    messages = [{"role": "user", "content": "old bridges"}]
    rendered = client.tokenization.ApplyChatTemplate({"messages": messages})
    assert rendered.prompt == "<s><user>old bridges<assistant>"
    # The engine counts as the services do: the template's begin token is not doubled.
    chat = client.generation.Chat({"messages": messages, "sampling": {"max_tokens": 3}})
    assert chat.usage.input_tokens == rendered.token_count
    plain = client.tokenization.Count({"texts": ["old bridges"]}).total
    assert client.tokenization.Count({"texts": ["old bridges"], "add_special_tokens": True}).total == plain + 1


def answers_stay_right_with_a_generator_that_babbles(client: Client) -> None:
    text = "The mill was sold to Tessa Brandt in 1954. The mill pond is four metres deep."
    list(client.rag.Ingest(iter([{"document": {"id": "mill.txt", "text": text}}])))
    answer = client.rag.Answer({"question": "Who was the mill sold to?"})
    assert "Tessa Brandt" in answer.text
    assert answer.citations[0].quote == "The mill was sold to Tessa Brandt in 1954."
    assert not client.rag.Answer({"question": "What is the speed of light?"}).answered


def test_a_t5_writes_what_transformers_does(changing: Changing, checkpoints: Path) -> None:
    """T5 over SentencePiece's Unigram."""
    with changing.swapped(generator=checkpoints / "t5") as client:
        writes_what_transformers_does(client, checkpoints / "t5")


def writes_what_transformers_does(client: Client, checkpoint: Path) -> None:
    for prompt, text in json.loads((checkpoint / "written.json").read_text()).items():
        request = {"prompt": prompt, "sampling": {"max_tokens": 12}}
        whole = client.generation.Generate(request)
        assert whole.text.startswith(text.strip())
        pieces = list(client.generation.StreamGenerate(request))
        assert "".join(piece.text for piece in pieces) == whole.text
        assert len(pieces) > 1
    model = client.models.GetModel({"name": "generator"}).model
    assert (model.engine, model.ready) == ("openvino-seq2seq", True)
    # Prompt and answer do not share the context.
    sampling = {"max_tokens": model.context_tokens, "ignore_eos": True}
    long = client.generation.Generate({"prompt": prompt, "sampling": sampling})
    assert long.usage.output_tokens == model.context_tokens - 1
    with pytest.raises(InvalidArgument) as failure:
        client.generation.Generate({"prompt": "fox " * 200})
    assert failure.value.reason == "PROMPT_TOO_LONG"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("embedder", "reranker"), [("bert-cls", "xlmr-cross"), ("bert-mean", "bert-mean"), ("xlmr-last", "colbert")]
)
def test_other_encoders(
    changing: Changing, embedder: str, reranker: str, all_checkpoints: Path, figure: Figure
) -> None:
    """CLS (and a Dense module), mean and last-token pooling, WordPiece and Unigram, a cross-encoder, late interaction and
    a ColBERT; against transformers in float32."""
    expected = json.loads((all_checkpoints / "expected.json").read_text())
    texts = expected["texts"]
    with changing.swapped(embedder=all_checkpoints / embedder, reranker=all_checkpoints / reranker) as client:
        answer = client.embedding.Embed({"inputs": texts})
        vectors = np.array([result.embedding.values for result in answer.results])
        cosines = vectors @ np.array(expected[embedder]).T
        figure(f"{embedder}: least cosine with transformers' vector", float(np.diag(cosines).min()))
        assert (np.diag(cosines) > 0.999).all(), cosines
        assert (cosines.argmax(1) == np.arange(len(texts))).all()
        # A context shorter than the catalogue's is the checkpoint's own.
        context = client.models.GetModel({"name": "embedder"}).model.context_tokens
        assert context == (128 if embedder == "xlmr-last" else 40)
        long = client.embedding.Embed({"inputs": [" ".join(texts * 20)], "reject_overlong": True}).results[0]
        assert long.error.reason == "INPUT_TOO_LONG"
        passages = [f"{text}, {text[:9]}." for text in texts] if reranker == "colbert" else texts
        ranked = client.embedding.Rerank({"query": texts[0], "passages": passages}).passages
        scores = [passage.score for passage in sorted(ranked, key=lambda p: p.index)]
        wanted = expected["late" if reranker == "bert-mean" else reranker]
        assert scores == pytest.approx([row[0] for row in wanted], abs=0.01)


@pytest.mark.nightly
def test_a_collection_outlives_its_embedder(changing: Changing, all_checkpoints: Path) -> None:
    """In place, and back; the runbook says how."""
    question = {"collection": "outlives", "question": "Who keeps the light?"}
    document = {"id": "a.md", "text": "# Light\n\nAda keeps the light. " + "It is white. " * 500}

    def reindexed(client: Client, expected: int) -> str:
        with pytest.raises(FailedPrecondition) as refused:
            client.rag.Retrieve(question)
        assert refused.value.reason == "MODEL_REVISION_MISMATCH"
        *_, last = client.rag.Reindex({"collection": "outlives"})
        assert last.result.recomputed_count == last.result.entity_count == expected
        assert len(client.rag.Retrieve(question | {"skip_rerank": True}).passages) == 4
        return str(last.result.model_revision)

    with changing.client() as client:
        *_, end = client.rag.Ingest(iter([{"collection": "outlives", "document": document}]))
        count = end.ingested.passage_count
        before = client.vector_search.GetCollection({"collection": "outlives"}).collection
    with changing.swapped(embedder=all_checkpoints / "bert-mean") as client:
        after = reindexed(client, count)
        assert client.vector_search.GetCollection({"collection": "outlives"}).collection.dimension != before.dimension
    with changing.client() as client:
        assert before.model_revision not in ("", after)
        assert reindexed(client, count) == before.model_revision
        client.vector_search.DeleteCollection({"collection": "outlives"})


@pytest.mark.nightly
def test_a_gpt2_and_a_diffusion_pipeline_of_another_size(changing: Changing, all_checkpoints: Path) -> None:
    sources = {"generator": all_checkpoints / "gpt2", "diffuser": all_checkpoints / "diffusion"}
    with changing.swapped(**sources) as client:
        request = {"prompt": "the quick brown fox", "sampling": {"max_tokens": 9, "ignore_eos": True}}
        assert client.generation.Generate(request).usage.output_tokens == 9
        assert client.models.GetModel({"name": "generator"}).model.context_tokens == 192
        image = client.diffusion.GenerateImage({"prompt": "anything", "steps": 3}).image
        assert (image.width, image.height) == (96, 96)
        assert image.data.startswith(b"\x89PNG")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("generator", "precision", "embedder"), [("t5", "int8-weights", "static"), ("bart", "fp32", "glove")]
)
def test_encoder_decoders_and_token_tables(
    changing: Changing, generator: str, precision: str, embedder: str, all_checkpoints: Path, tmp_path: Path
) -> None:
    """T5 in INT8, BART over BPE; tables pool as their definition says."""
    tables = json.loads((all_checkpoints / "tables.json").read_text())
    catalogue = in_float32(tmp_path / "models.yaml", generator=precision)
    sources = {"generator": all_checkpoints / generator, "embedder": all_checkpoints / embedder}
    with changing.swapped(catalogue, **sources) as client:
        writes_what_transformers_does(client, all_checkpoints / generator)
        answer = client.embedding.Embed({"inputs": tables["texts"]})
        vectors = np.array([result.embedding.values for result in answer.results])
        assert (vectors * np.array(tables[embedder])).sum(1) == pytest.approx(1, abs=2e-3)
        assert client.models.GetModel({"name": "embedder"}).model.engine == "static"
