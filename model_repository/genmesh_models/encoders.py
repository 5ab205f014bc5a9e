"""Builders of embedders and rerankers: encoder networks on OpenVINO, and token tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.colbert import markers_of
from genmesh_models.errors import BuildError
from genmesh_models.sources import WORD_VECTORS, read_json, tokenizer_of
from genmesh_models.texts import calibration_texts, retrieval_set

from encoder import Encoder, StaticEncoder, open_encoder, pack
from projection import dense_of, projection_of
from ranker import Ranker

ENCODERS = {"bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
# Their position 0 stands behind the padding token's id, so that they read that many tokens less.
OFFSET_POSITIONS = {"mpnet", "roberta", "xlm-roberta"}
CONTEXT = 512  # where neither catalogue nor checkpoint sets one
UNLIMITED = 10**6  # what a tokenizer without a bound says is longer
CROSS_CANDIDATES = 10  # passages a query that a cross-encoder ranks in verification


def pooling_of(source: Path) -> str:
    """How token vectors become a text's, as sentence-transformers wrote it: mean (where nothing is written), cls or last."""
    file = source / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = read_json(file)
    # From version 5.7 on a name, or several; a switch for each before.
    named = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    chosen = [named] if isinstance(named, str) else list(named)
    known = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise BuildError(
            f"{file} asks for {', '.join(chosen) or 'no pooling'}; one of mean, cls and last token is supported"
        )
    return known[chosen[0]]


def cosine(vectors: dict[str, np.ndarray]) -> Any:
    return lambda query, passages: [float(vectors[query] @ vectors[p]) for p in passages]


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """An embedder or a reranker; the facts of its card."""
    if entry.task == "embed" and (table := table_in(source)) is not None:
        return build_table(source, table, out, entry)
    return build_network(source, out, entry)


# A network's input: what the tokenizer calls it.
TOKENS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Once:
    """An encoder that runs each text, or pair, once, and gives rows as numpy arrays without padding."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.max_tokens = encoder, encoder.max_tokens
        self.rows: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}

    def encode(self, texts: Sequence[Any]) -> list[Any]:
        found: list[Any] = self.encoder.encode(texts)
        return found

    def run(self, encodings: Sequence[Any], wanted: Any = None) -> list[np.ndarray]:
        keys = [(tuple(e.ids), tuple(e.type_ids)) for e in encodings]
        new = {key: e for key, e in zip(keys, encodings, strict=True) if key not in self.rows}
        ran = self.encoder.run(list(new.values())) if new else []
        for (key, encoding), row in zip(new.items(), ran, strict=True):
            plain = np.asarray(row)
            self.rows[key] = plain[: len(encoding.ids)] if plain.ndim == 2 else plain
        return [self.rows[key] for key in keys]


class FullPrecision:
    """A network in torch behind the interface of ``Encoder``; it shares the built one's tokens."""

    def __init__(self, network: Any, built: Encoder, names: Sequence[str]) -> None:
        self.network, self.encode, self.max_tokens, self.names = network, built.encode, built.max_tokens, names
        self.cut = built.cut

    def run(self, encodings: Sequence[Any], wanted: Any = None) -> list[np.ndarray]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows: list[np.ndarray] = [np.empty(0)] * len(encodings)
        for group in pack([len(e.ids) for e in encodings]):
            tensors = {
                name: pad_sequence([torch.tensor(self.cut(getattr(encodings[i], TOKENS[name]))) for i in group], True)
                for name in self.names
            }
            with torch.no_grad():
                output = self.network(**tensors).numpy()
            for row, index in enumerate(group):
                rows[index] = output[row]
        return rows


def verified(task: str, facts: dict[str, Any], ours: Any, theirs: Any) -> list[verification.Figure]:
    """The figures of a built network: the encoder that is served, and the one in full precision."""
    both = [Once(ours), Once(theirs)]
    found, figures = retrieval_set(), []
    crossed = facts.get("scoring") == "cross-encoder"
    if not crossed:
        texts = [*found.passages.values(), *(query for query, _ in found.queries)]
        rows = [dict(zip(texts, encoder.run(encoder.encode(texts)), strict=True)) for encoder in both]
        figures = verification.vectors([(rows[0][text], rows[1][text]) for text in texts])
        if task == "embed":
            quality = [verification.ranking(cosine(vectors), None) for vectors in rows]
            return [*figures, verification.figure("ndcg_at_10", *quality)]
    # A cross-encoder reads each pair, so it ranks fewer passages a query.
    candidates = CROSS_CANDIDATES if crossed else None
    rankers = [Ranker(facts, encoder) for encoder in both]
    given: list[list[np.ndarray]] = [[], []]
    quality = []
    for ranker, kept in zip(rankers, given, strict=True):

        def score(query: str, passages: Sequence[str], ranker: Ranker = ranker, kept: list[np.ndarray] = kept) -> Any:
            kept.append(ranker.score([(query, passage) for passage in passages]))
            return kept[-1]

        quality.append(verification.ranking(score, candidates))
    if crossed:
        figures += verification.scores(list(zip(*given, strict=True)))
    return [*figures, verification.figure("ndcg_at_10", *quality)]


def build_network(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """An encoder with what its task adds (pooling, unit length, a score's head) as part of the network."""
    config = read_json(source / "config.json")
    facts = facts_of(source, config, entry) | {"engine": "openvino"} | entry.hints
    rows = "text" if entry.task == "embed" else "score" if facts["scoring"] == "cross-encoder" else "tokens"
    return facts | {"verification": verified(entry.task, facts, *converted(source, out, entry, rows, facts))}


TABLE_PRECISIONS = ("fp32", "fp16", "int8", "int8-weights")
# Modules of sentence-transformers that a network here has; with any other its vectors would be others.
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")


def modules_of(source: Path) -> list[dict[str, Any]]:
    """What sentence-transformers runs one after the other (type, path); nothing where the checkpoint is not its own."""
    path = source / "modules.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


def longest_of(source: Path) -> int:
    """The tokens of a text that sentence-transformers would read: its own word, from version 5.7 on the tokenizer's."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        path = source / name
        longest = read_json(path).get(key) if path.is_file() else None
        if isinstance(longest, int) and longest < UNLIMITED:
            return longest
    return CONTEXT


def check(source: Path, entry: Entry) -> None:
    """BuildError where a checkpoint is of no kind that is served."""
    if entry.task == "embed" and (table := table_in(source)) is not None:
        if entry.precision not in TABLE_PRECISIONS:
            raise BuildError(
                f"{entry.name}: a token table may be of {', '.join(TABLE_PRECISIONS)}, not {entry.precision}"
            )
        if table[0] != "text" and not table[1].is_file():
            raise BuildError(f"{entry.name}: {table[1]} is missing")
        return
    facts_of(source, read_json(source / "config.json"), entry)


def facts_of(source: Path, config: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """What the card says of a checkpoint of any profile; BuildError where it cannot be served."""
    kind = config.get("model_type")
    if kind not in ENCODERS:
        raise BuildError(
            f"{entry.name}: {source} holds a checkpoint of type {kind!r}; encoders may be of {', '.join(sorted(ENCODERS))}"
        )
    modules = [str(module.get("type", "")).rpartition(".")[2] for module in modules_of(source)]
    for name in modules:
        if name not in MODULES:
            raise BuildError(
                f"{entry.name}: {source} ends in a module {name} (modules.json); there is {', '.join(MODULES)}"
            )
    if "Pooling" in modules and modules.index("Pooling") != 1:
        raise BuildError(f"{entry.name}: {source} does not pool right behind its encoder (modules.json)")
    markers = markers_of(entry.name, source) if entry.task == "rerank" else None
    if entry.task == "rerank" and markers is None and dense_of(source):
        raise BuildError(
            f"{entry.name}: {source} has a Dense module behind its pooling, but late interaction pools nothing"
        )
    if not isinstance(config.get("max_position_embeddings"), int):
        raise BuildError(f"{entry.name}: {source / 'config.json'} does not say max_position_embeddings")
    positions = config["max_position_embeddings"] - (config["pad_token_id"] + 1 if kind in OFFSET_POSITIONS else 0)
    facts: dict[str, Any] = {
        "context_tokens": min(entry.limits.get("context_tokens") or longest_of(source), positions),
        "dimension": config.get("hidden_size", config.get("dim")),
    }
    if dense := dense_of(source):
        facts["dimension"] = read_json(dense[-1] / "config.json")["out_features"]
    if entry.task == "embed":
        return facts | {"pooling": pooling_of(source)}
    if markers is not None:
        longest = entry.limits.get("context_tokens") or markers["passage_tokens"]
        return facts | {"context_tokens": min(longest, positions), "scoring": "late-interaction", "colbert": markers}
    if str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        from transformers import AutoConfig

        if (labels := AutoConfig.from_pretrained(source).num_labels) != 1:
            raise BuildError(f"{entry.name}: {source} has {labels} labels; a cross-encoder that ranks has one")
        return facts | {"scoring": "cross-encoder"}
    return facts | {"scoring": "late-interaction"}


def converted(source: Path, out: Path, entry: Entry, rows: str, facts: dict[str, Any]) -> tuple[Encoder, FullPrecision]:
    """The network in the entry's precision, written to ``out`` and opened, and the one that it was made of.

    ``rows``: what the network gives for a text: "text", a unit vector; "tokens", one a token; of a pair "score", 0 to 1.
    """
    import nncf
    import openvino as ov
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    # A head of one output in INT8 gives a thousand times its logit in OpenVINO's plugin for CPUs.
    head = nncf.IgnoredScope(patterns=[".*classifier.*"], validate=False)
    cross = rows == "score"
    pooling = facts.get("pooling")

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Not the checkpoint's dtype: what half precision would cost is for the verification to tell.
            self.encoder = (AutoModelForSequenceClassification if cross else AutoModel).from_pretrained(
                source, dtype=torch.float32
            )
            self.projection = torch.nn.Sequential() if cross else projection_of(source)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra)
            if cross:
                return torch.sigmoid(found.logits)
            tokens = found.last_hidden_state
            if rows == "tokens":
                tokens = self.projection(tokens)
            if rows == "text":
                mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
                if pooling == "mean":
                    tokens = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                elif pooling == "cls":
                    tokens = tokens[:, 0]
                else:
                    last = (attention_mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])
                    tokens = tokens.gather(1, last).squeeze(1)
                tokens = self.projection(tokens)
            return torch.nn.functional.normalize(tokens, dim=-1)

    tokenizer = tokenizer_of(entry.name, source)
    tokenizer.save_pretrained(out)
    network = Network().eval()
    names = ["input_ids", "attention_mask"]
    if cross and "token_type_ids" in tokenizer.model_input_names:
        names.append("token_type_ids")

    def encode(texts: Sequence[str] | Sequence[tuple[str, str]], tensors: str) -> list[dict[str, Any]]:
        """One input of the network a text, or a pair of texts."""
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        context = facts["context_tokens"]
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
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=head)
    elif entry.precision == "int4-weights":
        model = nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=32, ratio=1.0, ignored_scope=head
        )
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=entry.precision not in ("fp32", "bf16"))
    built = Encoder(out, facts)
    return built, FullPrecision(network, built, names)


def table_in(source: Path) -> tuple[str, Path] | None:
    """(format, file) where a folder holds a token table; None where it holds a network.

    Formats: sentence-transformers' StaticEmbedding, model2vec, and word vectors as text (GloVe, word2vec).
    """
    texts = [path for form in WORD_VECTORS for path in sorted(source.glob(form))]
    if len(texts) > 1:
        raise BuildError(f"{source} holds {' and '.join(path.name for path in texts)}: which word vectors are meant?")
    if texts:
        return "text", texts[0]
    for first in modules_of(source)[:1]:
        if str(first.get("type", "")).endswith("StaticEmbedding"):
            behind = [str(module.get("type", "")).rpartition(".")[2] for module in modules_of(source)[1:]]
            if set(behind) - {"Normalize"}:
                raise BuildError(f"{source} has modules behind its token table (modules.json): {', '.join(behind)}")
            return "embedding.weight", source / first.get("path", "") / "model.safetensors"
    if (source / "config.json").is_file() and read_json(source / "config.json").get("model_type") == "model2vec":
        return "embeddings", source / "model.safetensors"
    return None


def build_table(source: Path, table: tuple[str, Path], out: Path, entry: Entry) -> dict[str, Any]:
    """A token table and its tokenizer."""
    form, file = table
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"engine": "static", "pooling": "mean"}
    facts["context_tokens"] = entry.limits.get("context_tokens", CONTEXT)
    if form == "text":
        vectors = read_word_vectors(file, out)
        facts["unknown_token_id"] = 0
    else:
        from safetensors.numpy import load_file

        tensors = load_file(file)
        if form not in tensors:
            raise BuildError(f"{entry.name}: {file} has no tensor {form}")
        vectors = tensors[form].astype(np.float32)
        if strange := sorted({"mapping", "weights"} & set(tensors)):
            raise BuildError(f"{entry.name}: {file} has {' and '.join(strange)}, tensors of a table that shares rows")
        (out / "tokenizer.json").write_bytes((file.parent / "tokenizer.json").read_bytes())
        facts["unknown_token_id"] = unknown_id(read_json(out / "tokenizer.json")) if form == "embeddings" else None
        (out / "tokenizer_config.json").write_text("{}")
    np.save(out / "table.npy", vectors.astype(np.float16 if entry.precision == "fp16" else np.float32))
    full = StaticEncoder.__new__(StaticEncoder)
    if entry.precision in ("int8", "int8-weights"):
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


def unknown_id(tokenizer: dict[str, Any]) -> int | None:
    """The id of the token for unknown words, which model2vec leaves out of its mean."""
    model = tokenizer["model"]
    vocabulary, unknown = model.get("vocab", {}), model.get("unk_token")
    if isinstance(vocabulary, list):  # Unigram
        return model.get("unk_id")
    return vocabulary.get(unknown) if unknown is not None else None


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_word_vectors(path: Path, out: Path) -> np.ndarray:
    """Word vectors in text form, ``word number number ...`` a line; writes a tokenizer of lower-case words.

    Row 0 stands for unknown words. A first line of two numbers (word2vec's header) is skipped.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, rows = {"[UNK]": 0}, []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip().replace("\t", " ")
            # A few "words" hold spaces: what stands before the numbers that every line has.
            word, *values = line.rsplit(" ", len(rows[0])) if rows else line.split(" ")
            if number == 1 and len(values) == 1:
                continue
            if " " in word and is_number(word.rsplit(" ", 1)[1]):
                word, *values = line.split(" ")
            try:
                row = np.array(values, np.float32)
            except ValueError:
                row = np.empty(0)
            if not len(row):
                raise BuildError(f"{path}: line {number} is not a word and its numbers")
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
