"""Encoders in torch behind the interface of the cpu profile's: batches packed by length, or a token table.

Used by the models ``embedder`` and ``reranker``; the build copies it beside each ``model.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from projection import projection_of
from tokenizers import Encoding, Tokenizer
from torch.nn import functional
from transformers import AutoModel, AutoModelForSequenceClassification

# Padded tokens, and rows, in one inference.
TOKEN_BUDGET = 16384
BATCH_LIMIT = 256


def pack(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indexes grouped by length, so that a group's size times its longest stays within the budget."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) == BATCH_LIMIT or (len(group) + 1) * lengths[index] > TOKEN_BUDGET):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def every(index: int) -> bool:
    """All rows are wanted."""
    return True


def tokenizer_of(folder: Path) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
    return tokenizer


def network_of(folder: Path, card: dict[str, Any]) -> torch.nn.Module:
    """The checkpoint's network; a cross-encoder keeps its head."""
    kind = AutoModelForSequenceClassification if card.get("scoring") == "cross-encoder" else AutoModel
    network: torch.nn.Module = kind.from_pretrained(folder)
    return network.eval()


class Encoder:
    """Tokenizer and network of one model folder, which is a checkpoint in transformers' format."""

    def __init__(self, folder: Path, card: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.max_tokens: int = card["context_tokens"]
        self.pooling: str | None = card.get("pooling")  # None where each token's vector is wanted
        self.cross = card.get("scoring") == "cross-encoder"
        self.typed: bool = card.get("token_types", False)
        self.device = device
        self.network = network_of(folder, card).to(device=device, dtype=dtype)
        self.projection = projection_of(folder).to(device)

    def encode(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Encoding]:
        """One encoding a text, or a pair of texts, special tokens included, not truncated."""
        found: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts))
        return found

    def _cut(self, row: list[int]) -> list[int]:
        return row if len(row) <= self.max_tokens else [*row[: self.max_tokens - 1], row[-1]]

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Unit vectors, (batch, dimension) or (batch, tokens, dimension), or scores (batch, 1); float32."""
        extra = {"token_type_ids": kinds} if self.typed else {}
        found = self.network(input_ids=tokens, attention_mask=mask, **extra)
        if self.cross:
            return torch.sigmoid(found.logits.float())
        # Sums over tokens and squares leave half precision's range.
        vectors = found.last_hidden_state.float()
        if self.pooling is None:
            vectors = self.projection(vectors)
        if self.pooling == "mean":
            weights = mask.unsqueeze(-1).float()
            vectors = (vectors * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        elif self.pooling == "cls":
            vectors = vectors[:, 0]
        elif self.pooling == "last":
            vectors = vectors[torch.arange(len(vectors), device=self.device), mask.sum(1) - 1]
        if self.pooling is not None:
            vectors = self.projection(vectors)
        return functional.normalize(vectors, dim=-1)

    @torch.inference_mode()
    def run(self, encodings: Sequence[Encoding], wanted: Callable[[int], bool] = every) -> list[torch.Tensor]:
        """The row of each encoding, float32 on the device; ids beyond ``max_tokens`` are cut (the last is kept).

        Before each batch ``wanted`` is asked of each index in it; the row of one that is not wanted stays empty.
        A row is a vector, one vector a token (padding left out), or one score.
        """
        ids, types, masks = (
            [self._cut(row) for row in rows]
            for rows in zip(*((e.ids, e.type_ids, e.attention_mask) for e in encodings), strict=True)
        )
        rows: list[torch.Tensor] = [torch.empty(0)] * len(ids)
        for packed in pack([len(i) for i in ids]):
            if not (group := [index for index in packed if wanted(index)]):
                continue
            longest = max(len(ids[i]) for i in group)
            tokens = np.zeros((3, len(group), longest), dtype=np.int64)  # ids, mask, types
            for row, index in enumerate(group):
                length = len(ids[index])
                tokens[:, row, :length] = ids[index], masks[index], types[index]
            output = self._forward(*torch.from_numpy(tokens).to(self.device))
            for row, index in enumerate(group):
                rows[index] = output[row, : len(ids[index])] if output.ndim == 3 else output[row]
        return rows

    def warm_up(self) -> None:
        """Run the smallest batch and, on a GPU, one that fills the budget: lack of memory shows when it loads."""
        text = ("warm", "up") if self.cross else "warm up"
        self.run(self.encode([text]))
        if self.device.type == "cuda":
            long = ("warm", "up " * self.max_tokens) if self.cross else "up " * self.max_tokens
            self.run(self.encode([long] * min(BATCH_LIMIT, TOKEN_BUDGET // self.max_tokens)))


class TableEncoder:
    """A table with one vector a token; a text's vector is their mean, of unit length.

    ``table.npy`` has shape [tokens, dimension]. A text without any known token has the zero vector.
    """

    def __init__(self, folder: Path, card: dict[str, Any], device: torch.device) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.max_tokens: int = card["context_tokens"]
        self.unknown: int | None = card.get("unknown_token_id")
        self.device = device
        self.table = torch.from_numpy(np.load(folder / "table.npy").astype(np.float32)).to(device)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """One encoding a text, without special tokens, not truncated."""
        found: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return found

    @torch.inference_mode()
    def run(self, encodings: Sequence[Encoding], wanted: Callable[[int], bool] = every) -> list[torch.Tensor]:
        """The vector of each encoding, float32 on the device; ids beyond ``max_tokens`` take no part."""
        known = [[i for i in e.ids[: self.max_tokens] if i != self.unknown] for e in encodings]
        starts = np.cumsum([0, *(len(ids) for ids in known)])[:-1]
        ids = torch.tensor([i for row in known for i in row], dtype=torch.long, device=self.device)
        # A sum has the direction of the mean.
        sums = functional.embedding_bag(ids, self.table, torch.from_numpy(starts).to(self.device), mode="sum")
        return list(functional.normalize(sums, dim=-1))

    def warm_up(self) -> None:
        self.run(self.encode(["warm up"]))


def open_encoder(
    folder: Path, card: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Encoder | TableEncoder:
    """The encoder of a built model, as its card says."""
    if card["engine"] == "static":
        return TableEncoder(folder, card, device)
    return Encoder(folder, card, device, dtype)
