"""Triton model ``reranker``: late interaction over token vectors (MaxSim, Khattab & Zaharia 2020).

A passage's score is the mean, over the query's tokens, of the greatest cosine with any token of the
passage. Special tokens take no part. The network's rows are token vectors of unit length.
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
        self.encoder = Encoder(folder, card["context_tokens"])
        self.encoder.run(self.encoder.encode(["warm up"]))

    def _token_vectors(self, unique: list[str]) -> dict[str, np.ndarray]:
        encodings = self.encoder.encode(unique)
        rows = self.encoder.run(encodings)
        found = {}
        for text, encoding, row in zip(unique, encodings, rows, strict=True):
            length = min(len(encoding.ids), self.encoder.max_tokens)
            words = slice(1, length - 1) if length > 2 else slice(0, length)
            found[text] = row[words]
        return found

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            pairs = [list(zip(texts(r, "query"), texts(r, "passage"), strict=True)) for r in requests]
            vectors = self._token_vectors(
                list(dict.fromkeys(text for group in pairs for pair in group for text in pair))
            )
            return [
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(
                            "score",
                            np.array([[(vectors[q] @ vectors[p].T).max(axis=1).mean()] for q, p in group], np.float32),
                        )
                    ]
                )
                for group in pairs
            ]
        except Exception as failure:  # one bad batch must not take the model down
            return [error(f"reranker: {failure}") for _ in requests]
