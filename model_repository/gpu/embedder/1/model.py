"""Triton model ``embedder`` on a GPU: vectors of unit length, by a network in torch or a token table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from tensors import error, model_card, texts
from torch_device import place_of
from torch_encoder import open_encoder


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.encoder = open_encoder(folder, card, *place_of(args, card))
        self.encoder.warm_up()

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            groups = [texts(request, "text") for request in requests]
            encodings = self.encoder.encode([text for group in groups for text in group])
            vectors = torch.stack(self.encoder.run(encodings)).cpu().numpy()
        except Exception as failure:  # one bad batch must not take the model down
            return [error(f"embedder: {failure}") for _ in requests]
        responses, start = [], 0
        for group in groups:
            end = start + len(group)
            counts = np.array([[len(e.ids)] for e in encodings[start:end]], dtype=np.int32)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("embedding", vectors[start:end]), pb_utils.Tensor("token_count", counts)]
                )
            )
            start = end
        return responses
