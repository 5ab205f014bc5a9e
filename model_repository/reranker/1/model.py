"""Triton model ``reranker``: scores of (query, passage) rows; ``ranker.py`` says how."""

from __future__ import annotations

from typing import Any

from encoder import Encoder
from ranker import Ranker
from tensors import model_card, ranked


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.ranker = Ranker(card, Encoder(folder, card))
        self.ranker.score([("warm", "up")])

    def execute(self, requests: list[Any]) -> list[Any]:
        return ranked(requests, self.ranker.score)
