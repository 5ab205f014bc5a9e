"""Triton model ``reranker``: late interaction or a cross-encoder, as the built model's card says.

Late interaction (MaxSim, Khattab & Zaharia 2020): a passage's score is the mean, over the query's
tokens, of the greatest cosine with any token of the passage. Special tokens take no part. The
network's rows are token vectors of unit length. A cross-encoder reads query and passage as one text;
its network's row is the score, 0 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from encoder import Encoder
from tensors import error, model_card, texts


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.encoder = Encoder(folder, card)
        self.score = self._cross_encoder if card["scoring"] == "cross-encoder" else self._late_interaction
        self.score([("warm", "up")])

    def _token_vectors(self, unique: list[str]) -> dict[str, np.ndarray]:
        encodings = self.encoder.encode(unique)
        rows = self.encoder.run(encodings)
        found = {}
        for text, encoding, row in zip(unique, encodings, rows, strict=True):
            length = min(len(encoding.ids), self.encoder.max_tokens)
            words = slice(1, length - 1) if length > 2 else slice(0, length)
            found[text] = row[words]
        return found

    def _late_interaction(self, pairs: list[tuple[str, str]]) -> list[float]:
        vectors = self._token_vectors(list(dict.fromkeys(text for pair in pairs for text in pair)))
        return [(vectors[q] @ vectors[p].T).max(axis=1).mean() for q, p in pairs]

    def _cross_encoder(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [row[0] for row in self.encoder.run(self.encoder.encode(pairs))]

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            groups = [list(zip(texts(r, "query"), texts(r, "passage"), strict=True)) for r in requests]
            scores = iter(self.score([pair for group in groups for pair in group]))
            return [
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("score", np.array([[next(scores)] for _ in group], np.float32))]
                )
                for group in groups
            ]
        except Exception as failure:  # one bad batch must not take the model down
            return [error(f"reranker: {failure}") for _ in requests]
