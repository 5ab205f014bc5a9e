"""Triton model ``reranker``: scores of (query, passage) rows; ``ranker.py`` says how."""

from __future__ import annotations

from typing import Any

from encoder import Encoder
from measured import Measured
from ranker import Ranker
from tensors import model_card, ranked


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.ranker = Ranker(card, Encoder(folder, card))
        self.ranker.score([("warm", "up")])
        self.ranker.kept.asked = 0  # of no caller
        self.measured = Measured("reranker", args)

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = ranked(requests, self.ranker.score)
        self.measured.reached("passages_total", self.ranker.kept.asked)
        self.measured.reached("kept_passages_total", self.ranker.kept.found)
        return responses
