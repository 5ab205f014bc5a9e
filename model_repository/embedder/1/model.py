"""Triton model ``embedder``: vectors of unit length, by a network (pooling is part of it) or a token table."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from encoder import open_encoder
from tensors import Batch, model_card, texts


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.encoder = open_encoder(folder, card)
        self.encoder.run(self.encoder.encode(["warm up"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        batch = Batch("embedder", requests, lambda request: self.encoder.encode(texts(request, "text")))
        return batch.answer(lambda encodings, wanted: self.encoder.run(encodings, wanted), self._response)

    @staticmethod
    def _response(encodings: list[Any], rows: list[Any]) -> Any:
        counts = np.array([[len(e.ids)] for e in encodings], dtype=np.int32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("embedding", np.stack(rows)), pb_utils.Tensor("token_count", counts)]
        )
