"""Encoders behind one interface: a network on OpenVINO, fed with batches packed by length, or a token table.

Used by the models ``embedder`` and ``reranker``; the build copies it beside each ``model.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from plugin import options
from tokenizers import Encoding, Tokenizer

# Padded tokens in one inference. Larger batches gain nothing on a CPU and cost latency.
TOKEN_BUDGET = 2048
BATCH_LIMIT = 32
# Lengths of a batch are multiples of this many tokens: OpenVINO compiles for each shape that it meets, and never forgets one.
LENGTH_STEP = 16


def pack(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indexes grouped so that a group's size times its longest stays within the budget.

    Texts are sorted by length first, so that little of a batch is padding.
    """
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


class Encoder:
    """Tokenizer and compiled network of one model folder (``tokenizer.json``, ``openvino_model.xml``)."""

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.max_tokens: int = card["context_tokens"]
        wanted = {"PERFORMANCE_HINT": "THROUGHPUT"} | options(card)
        compiled = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", wanted)
        self._typed = any("token_type_ids" in port.names for port in compiled.inputs)
        self._queue = ov.AsyncInferQueue(compiled)

    def encode(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Encoding]:
        """One encoding a text, or a pair of texts, special tokens included, not truncated."""
        found: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts))
        return found

    def cut(self, row: list[int]) -> list[int]:
        """At most ``max_tokens`` of a text's tokens, the last among them."""
        return row if len(row) <= self.max_tokens else [*row[: self.max_tokens - 1], row[-1]]

    def padded(self, length: int) -> int:
        """Tokens in the rows of a batch whose longest has ``length`` of them."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, max(length, self.max_tokens))

    def run(self, encodings: Sequence[Encoding], wanted: Callable[[int], bool] = every) -> list[np.ndarray]:
        """The network's output row of each encoding, float32; ids beyond ``max_tokens`` are cut (the last is kept).

        Before each batch ``wanted`` is asked of each index in it; the row of one that is not wanted stays empty.
        """
        ids, types, masks = (
            [self.cut(row) for row in rows]
            for rows in zip(*((e.ids, e.type_ids, e.attention_mask) for e in encodings), strict=True)
        )
        rows: list[np.ndarray] = [np.empty(0)] * len(ids)

        def store(request: ov.InferRequest, group: list[int]) -> None:
            output = request.get_output_tensor(0).data
            for row, index in enumerate(group):
                rows[index] = output[row].copy()

        self._queue.set_callback(store)
        try:
            for packed in pack([len(i) for i in ids]):
                if not (group := [index for index in packed if wanted(index)]):
                    continue
                longest = self.padded(max(len(ids[i]) for i in group))
                tokens = np.zeros((len(group), longest), dtype=np.int64)
                mask, kinds = np.zeros_like(tokens), np.zeros_like(tokens)
                for row, index in enumerate(group):
                    tokens[row, : len(ids[index])] = ids[index]
                    kinds[row, : len(ids[index])] = types[index]
                    mask[row, : len(ids[index])] = masks[index]
                given = {"input_ids": tokens, "attention_mask": mask}
                self._queue.start_async(given | {"token_type_ids": kinds} if self._typed else given, group)
        finally:  # or what runs still would be stored as the next call's rows
            self._queue.wait_all()
        return rows


class StaticEncoder:
    """A table with one vector a token; a text's vector is their mean, of unit length (Mikolov et al. 2013).

    ``table.npy`` has shape [tokens, dimension]; as int8, ``scale.npy`` has each row's factor. A text
    without any known token has the zero vector.
    """

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.max_tokens: int = card["context_tokens"]
        self.unknown: int | None = card.get("unknown_token_id")
        self.table = np.load(folder / "table.npy", mmap_mode="r")
        self.scale = np.load(folder / "scale.npy") if self.table.dtype == np.int8 else None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """One encoding a text, without special tokens, not truncated."""
        found: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return found

    def run(self, encodings: Sequence[Encoding], wanted: Callable[[int], bool] = every) -> list[np.ndarray]:
        """The vector of each encoding, float32; ids beyond ``max_tokens`` take no part."""
        rows = []
        for encoding in encodings:
            ids = [i for i in encoding.ids[: self.max_tokens] if i != self.unknown]
            vectors = self.table[ids].astype(np.float32)
            if self.scale is not None:
                vectors *= self.scale[ids, None]
            total = vectors.sum(0)
            rows.append(total / max(float(np.linalg.norm(total)), 1e-12))
        return rows


def open_encoder(folder: Path, card: dict[str, Any]) -> Encoder | StaticEncoder:
    """The encoder of a built model, as its card says."""
    return StaticEncoder(folder, card) if card["engine"] == "static" else Encoder(folder, card)
