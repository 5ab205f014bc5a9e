"""Triton model ``reranker`` on a GPU: late interaction or a cross-encoder, as the built model's card says.

Late interaction (MaxSim, Khattab & Zaharia 2020): a passage's score is the mean, over the query's
tokens, of the greatest cosine with any token of the passage. Special tokens take no part. The
encoder's rows are token vectors of unit length. A cross-encoder reads query and passage as one text;
its row is the score, 0 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from tensors import error, model_card, texts
from torch.nn.utils.rnn import pad_sequence
from torch_device import place_of
from torch_encoder import Encoder

# Passages that are scored at once: their padded vectors stay small beside the network's own memory.
PART = 64


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.encoder = Encoder(folder, card, *place_of(args, card))
        self.encoder.warm_up()
        self.score = self._cross_encoder if card["scoring"] == "cross-encoder" else self._late_interaction
        self.score([("warm", "up")])

    def _token_vectors(self, unique: list[str]) -> dict[str, torch.Tensor]:
        rows = self.encoder.run(self.encoder.encode(unique))
        return {text: row[1:-1] if len(row) > 2 else row for text, row in zip(unique, rows, strict=True)}

    @torch.inference_mode()
    def _late_interaction(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """The score of each pair, float32 (pairs,)."""
        vectors = self._token_vectors(list(dict.fromkeys(text for pair in pairs for text in pair)))
        asked: dict[str, list[int]] = {}
        for index, (query, _) in enumerate(pairs):
            asked.setdefault(query, []).append(index)
        scores = torch.empty(len(pairs), device=self.encoder.device)
        for query, indexes in asked.items():
            for start in range(0, len(indexes), PART):
                part = indexes[start : start + PART]
                found = [vectors[pairs[i][1]] for i in part]
                passages = pad_sequence(found, batch_first=True)
                lengths = torch.tensor([len(row) for row in found], device=passages.device)
                padding = torch.arange(passages.shape[1], device=passages.device) >= lengths[:, None]
                cosines = vectors[query] @ passages.transpose(1, 2)  # (part, query's tokens, passage's tokens)
                cosines.masked_fill_(padding[:, None], -2.0)
                scores[part] = cosines.amax(-1).mean(-1)
        return scores.cpu().numpy()

    def _cross_encoder(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """The score of each pair, float32 (pairs,)."""
        return torch.cat(self.encoder.run(self.encoder.encode(pairs))).cpu().numpy()

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            groups = [list(zip(texts(r, "query"), texts(r, "passage"), strict=True)) for r in requests]
            scores = self.score([pair for group in groups for pair in group])
            parts = np.split(scores, np.cumsum([len(group) for group in groups])[:-1])
            return [pb_utils.InferenceResponse([pb_utils.Tensor("score", part[:, None].copy())]) for part in parts]
        except Exception as failure:  # one bad batch must not take the model down
            return [error(f"reranker: {failure}") for _ in requests]
