"""The precision in which OpenVINO computes a model on a CPU; the build copies this file beside each model's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLOAT32, BFLOAT16 = "f32", "bf16"


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 (AVX512_BF16 or AMX)."""
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def options(card: Mapping[str, Any]) -> dict[str, Any]:
    """For ``compile_model`` and the pipelines of OpenVINO GenAI; ``card`` may be any part of a model's card.

    The hint is always given: without one, the plugin computes in bfloat16 wherever the processor can, and one revision
    of a model gives other numbers on another machine. RuntimeError if the model was verified in bfloat16 and this
    processor has none.
    """
    precision = card.get("inference_precision", FLOAT32)
    if precision == BFLOAT16 and not has_bfloat16():
        raise RuntimeError(
            "the model was built to compute in bfloat16, which this processor does not have; build it on a machine of this "
            "kind, or with `inference: f32`"
        )
    return {"INFERENCE_PRECISION_HINT": precision}
