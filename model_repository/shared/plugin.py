"""What OpenVINO's plugin for CPUs is told of a model; the build copies it beside the models' code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def options(card: Mapping[str, Any]) -> dict[str, Any]:
    """For ``compile_model`` and the pipelines of OpenVINO GenAI; ``card`` may be any part of a model's card."""
    hint = card.get("inference_precision")
    return {"INFERENCE_PRECISION_HINT": hint} if hint else {}
