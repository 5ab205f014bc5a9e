"""Triton model ``reranker`` on a GPU: scores of (query, passage) rows; ``ranker.py`` says how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ranker import Pair, Ranker
from tensors import model_card, ranked
from torch.nn.utils.rnn import pad_sequence
from torch_device import place_of
from torch_encoder import Encoder

# Passages that are scored at once: their padded vectors stay small beside the network's own memory.
PART = 64


class DeviceRanker(Ranker):
    """Does the sums on the encoder's device."""

    @torch.inference_mode()
    def late_interaction(self, pairs: Sequence[Pair]) -> np.ndarray:
        queries, told = self.vectors(*(list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True)))
        asked: dict[str, list[int]] = {}
        for index, (query, _) in enumerate(pairs):
            asked.setdefault(query, []).append(index)
        scores = torch.empty(len(pairs), device=self.encoder.device)
        for query, indexes in asked.items():
            for start in range(0, len(indexes), PART):
                part = indexes[start : start + PART]
                found = [told[pairs[i][1]] for i in part]
                passages = pad_sequence(found, batch_first=True)
                lengths = torch.tensor([len(row) for row in found], device=passages.device)
                padding = torch.arange(passages.shape[1], device=passages.device) >= lengths[:, None]
                cosines = queries[query] @ passages.transpose(1, 2)  # (part, query's tokens, passage's tokens)
                cosines.masked_fill_(padding[:, None], -2.0)
                scores[part] = cosines.amax(-1).mean(-1)
        return scores.cpu().numpy()

    def crossed(self, pairs: Sequence[Pair]) -> np.ndarray:
        return torch.cat(self.encoder.run(self.encoder.encode(pairs), self.wanted)).cpu().numpy()


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        encoder = Encoder(folder, card, *place_of(args, card))
        encoder.warm_up()
        self.ranker = DeviceRanker(card, encoder)
        self.ranker.score([("warm", "up")])

    def execute(self, requests: list[Any]) -> list[Any]:
        return ranked(requests, self.ranker.score)
