"""Builders of embedders and rerankers: encoder networks on OpenVINO, and token tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import REPOSITORY, Entry
from genmesh_models.errors import BuildError
from genmesh_models.sources import read_json
from genmesh_models.texts import calibration_texts, retrieval_set

sys.path.insert(0, str(REPOSITORY / "shared"))
from encoder import Encoder, StaticEncoder, open_encoder

ENCODERS = {"bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
# Their position 0 stands behind the padding token's id, so that they read that many tokens less.
OFFSET_POSITIONS = {"mpnet", "roberta", "xlm-roberta"}
CONTEXT = 512  # where the catalogue sets none
CROSS_CANDIDATES = 10  # passages a query that a cross-encoder ranks in verification; it reads each pair


def pooling_of(source: Path) -> str:
    """How token vectors become a text's, as sentence-transformers wrote it: mean (where nothing is written), cls or last."""
    file = source / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = read_json(file)
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise BuildError(
            f"{file} asks for {', '.join(chosen) or 'no pooling'}; one of mean, cls and last token is supported"
        )
    return known[chosen[0]]


def pairwise(score: Any) -> Any:
    """A ranking function from one that scores a list of (query, passage)."""
    return lambda query, passages: score([(query, passage) for passage in passages])


def late_interaction(vectors: dict[str, np.ndarray]) -> Any:
    """MaxSim over token vectors, special tokens left out, as reranker/1/model.py scores."""

    def score(query: str, passages: Sequence[str]) -> list[float]:
        asked = vectors[query][1:-1]
        return [float((asked @ vectors[p][1:-1].T).max(axis=1).mean()) for p in passages]

    return score


def cosine(vectors: dict[str, np.ndarray]) -> Any:
    return lambda query, passages: [float(vectors[query] @ vectors[p]) for p in passages]


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """An embedder or a reranker; the facts of its card."""
    if entry.task == "embed" and (table := table_in(source)) is not None:
        return build_table(source, table, out, entry)
    return build_network(source, out, entry)


def build_network(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """An encoder with what its task adds (pooling, unit length, a score's head) as part of the network."""
    import nncf
    import openvino as ov
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    config = read_json(source / "config.json")
    kind = config.get("model_type")
    if kind not in ENCODERS:
        raise BuildError(
            f"{entry.name}: {source} holds a checkpoint of type {kind!r}; encoders may be of {', '.join(sorted(ENCODERS))}"
        )
    cross = entry.task == "rerank" and config.get("architectures", [""])[0].endswith("ForSequenceClassification")
    pooling = pooling_of(source)

    class Network(torch.nn.Module):
        """Unit vectors of the text or, for late interaction, of each token; a cross-encoder's score, 0 to 1."""

        def __init__(self) -> None:
            super().__init__()
            # Not the checkpoint's dtype: what half precision would cost is for the verification to tell.
            self.encoder = (AutoModelForSequenceClassification if cross else AutoModel).from_pretrained(
                source, dtype=torch.float32
            )

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra)
            if cross:
                return torch.sigmoid(found.logits)
            tokens = found.last_hidden_state
            if entry.task == "embed":
                mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
                if pooling == "mean":
                    tokens = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                elif pooling == "cls":
                    tokens = tokens[:, 0]
                else:
                    last = (attention_mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])
                    tokens = tokens.gather(1, last).squeeze(1)
            return torch.nn.functional.normalize(tokens, dim=-1)

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(out)
    network = Network().eval()
    if cross and network.encoder.config.num_labels != 1:
        raise BuildError(
            f"{entry.name}: {source} has {network.encoder.config.num_labels} labels; a cross-encoder that ranks has one"
        )
    names = ["input_ids", "attention_mask"]
    if cross and "token_type_ids" in tokenizer.model_input_names:
        names.append("token_type_ids")
    context = min(
        entry.limits.get("context_tokens", CONTEXT),
        config["max_position_embeddings"] - (config["pad_token_id"] + 1 if kind in OFFSET_POSITIONS else 0),
    )

    def encode(texts: Sequence[str] | Sequence[tuple[str, str]], tensors: str) -> list[dict[str, Any]]:
        """One input of the network a text, or a pair of texts."""
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        found = [tokenizer(*pair, truncation=True, max_length=context, return_tensors=tensors) for pair in pairs]
        return [{name: one[name] for name in names} for one in found]

    def paired(texts: list[str]) -> list[Any]:
        return [(text, texts[i - 1]) for i, text in enumerate(texts)] if cross else list(texts)

    model = ov.convert_model(network, example_input=encode(paired(["an example of two", "texts"]), "pt")[0])
    model.reshape({key: [-1, -1] for key in names})
    if entry.precision == "int8":
        samples = encode(paired(calibration_texts()), "np")
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples), fast_bias_correction=True,
        )  # fmt: skip
    elif entry.precision == "int8-weights":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif entry.precision == "int4-weights":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=32, ratio=1.0)
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=entry.precision not in ("fp32", "bf16"))
    facts: dict[str, Any] = {
        "engine": "openvino",
        "context_tokens": context,
        "dimension": config.get("hidden_size", config.get("dim")),
    }
    if entry.precision == "bf16":
        facts["inference_precision"] = "bf16"
    if entry.task == "embed":
        facts["pooling"] = pooling
    else:
        facts["scoring"] = "cross-encoder" if cross else "late-interaction"

    built = Encoder(out, facts)

    def ours(texts: Sequence[Any]) -> list[np.ndarray]:
        encodings = built.encode(texts)
        rows = built.run(encodings)
        # Rows of tokens are as long as their batch's longest.
        return [row[: len(e.ids)] if row.ndim == 2 else row for row, e in zip(rows, encodings, strict=True)]

    def full(texts: Sequence[Any]) -> list[np.ndarray]:
        with torch.no_grad():
            return [network(**one).numpy()[0] for one in encode(texts, "pt")]

    found = retrieval_set()
    if cross:
        wanted = [(q, found.passages[n]) for q, r in found.queries for n in found.candidates(q, r, CROSS_CANDIDATES)]
        both = [dict(zip(wanted, (float(row[0]) for row in run(wanted)), strict=True)) for run in (ours, full)]
        figures = verification.scores([(np.array(both[0][pair]), np.array(both[1][pair])) for pair in wanted])
        quality = [
            verification.ranking(pairwise(lambda pairs, s=s: [s[pair] for pair in pairs]), CROSS_CANDIDATES)
            for s in both
        ]
    else:
        texts = [*found.passages.values(), *(query for query, _ in found.queries)]
        both_vectors = [dict(zip(texts, run(texts), strict=True)) for run in (ours, full)]
        figures = verification.vectors([(both_vectors[0][t], both_vectors[1][t]) for t in texts])
        score = cosine if entry.task == "embed" else late_interaction
        quality = [verification.ranking(score(vectors), None) for vectors in both_vectors]
    return facts | {"verification": [*figures, verification.figure("ndcg_at_10", *quality)]}


def table_in(source: Path) -> tuple[str, Path] | None:
    """(format, folder) where a folder holds a token table; None where it holds a network.

    Formats: sentence-transformers' StaticEmbedding, model2vec, and word vectors as text (GloVe, word2vec).
    """
    if (source / "vectors.txt").is_file():
        return "text", source
    if (source / "modules.json").is_file():
        modules = json.loads((source / "modules.json").read_text())
        if modules and str(modules[0].get("type", "")).endswith("StaticEmbedding"):
            return "embedding.weight", source / modules[0].get("path", "")
    if (source / "config.json").is_file() and read_json(source / "config.json").get("model_type") == "model2vec":
        return "embeddings", source
    return None


def build_table(source: Path, table: tuple[str, Path], out: Path, entry: Entry) -> dict[str, Any]:
    """A token table and its tokenizer."""
    form, folder = table
    if entry.precision not in ("fp32", "fp16", "int8"):
        raise BuildError(f"{entry.name}: a token table is kept in fp32, fp16 or int8, not {entry.precision}")
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"engine": "static", "pooling": "mean"}
    facts["context_tokens"] = entry.limits.get("context_tokens", CONTEXT)
    if form == "text":
        vectors = read_word_vectors(folder / "vectors.txt", out)
        facts["unknown_token_id"] = 0
    else:
        from safetensors.numpy import load_file

        tensors = load_file(folder / "model.safetensors")
        if form not in tensors:
            raise BuildError(f"{entry.name}: {folder / 'model.safetensors'} has no tensor {form}")
        vectors = tensors[form].astype(np.float32)
        (out / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        (out / "tokenizer_config.json").write_text("{}")
    np.save(out / "table.npy", vectors.astype(np.float16 if entry.precision == "fp16" else np.float32))
    full = StaticEncoder.__new__(StaticEncoder)
    if entry.precision == "int8":
        scale = np.maximum(np.abs(vectors).max(1) / 127, 1e-12).astype(np.float32)
        np.save(out / "table.npy", np.rint(vectors / scale[:, None]).astype(np.int8))
        np.save(out / "scale.npy", scale)
    built = open_encoder(out, facts)
    full.__dict__ |= built.__dict__ | {"table": vectors, "scale": None}
    found = retrieval_set()
    texts = [*found.passages.values(), *(query for query, _ in found.queries)]
    ours, theirs = (dict(zip(texts, e.run(e.encode(texts)), strict=True)) for e in (built, full))
    # A text without a known token has no direction to compare.
    known = [t for t in texts if theirs[t].any()]
    figures = verification.vectors([(ours[t], theirs[t]) for t in known]) if known else []
    quality = [verification.ranking(cosine(vectors), None) for vectors in (ours, theirs)]
    facts |= {"dimension": vectors.shape[1], "parameter_count": int(vectors.size)}
    return facts | {"verification": [*figures, verification.figure("ndcg_at_10", *quality)]}


def read_word_vectors(path: Path, out: Path) -> np.ndarray:
    """Word vectors in text form, ``word number number ...`` a line; writes a tokenizer of lower-case words.

    Row 0 stands for unknown words. A first line of two numbers (word2vec's header) is skipped.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, rows = {"[UNK]": 0}, []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:
                continue
            try:
                row = np.array(values, np.float32)
            except ValueError:
                raise BuildError(f"{path}: line {number} is not a word and its numbers") from None
            if rows and len(row) != len(rows[0]):
                raise BuildError(f"{path}: line {number} has {len(row)} numbers, the lines before {len(rows[0])}")
            if word.lower() not in vocabulary:
                vocabulary[word.lower()] = len(vocabulary)
                rows.append(row)
    if not rows:
        raise BuildError(f"{path} holds no word vector")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]"}))
    return np.stack([np.zeros_like(rows[0]), *rows])
