"""Tensors of Triton requests and responses; the build copies it beside each ``model.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


def value(request: Any, name: str, default: Any = None) -> Any:
    """The first element of an input; ``default`` where the request lacks it. BYTES come as ``str``."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    found = tensor.as_numpy().reshape(-1)
    if not len(found):
        return default
    return found[0].decode("utf-8") if isinstance(found[0], bytes) else found[0].item()


def texts(request: Any, name: str) -> list[str]:
    """All elements of a BYTES input."""
    return [item.decode("utf-8") for item in pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)]


def model_card(args: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    """The folder of this version's weights and what the build wrote about them."""
    version = Path(args["model_repository"]) / args["model_version"]
    return version / "weights", json.loads((version / "card.json").read_text())


def error(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))


def ranked(requests: list[Any], score: Callable[[list[tuple[str, str]], list[int]], np.ndarray]) -> list[Any]:
    """A response with ``score`` for each request with ``query`` and ``passage``; all pairs are scored together."""
    try:
        groups = [list(zip(texts(r, "query"), texts(r, "passage"), strict=True)) for r in requests]
        owners = [number for number, group in enumerate(groups) for _ in group]
        scores = score([pair for group in groups for pair in group], owners)
        parts = np.split(scores, np.cumsum([len(group) for group in groups])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("score", part[:, None].copy())]) for part in parts]
    except Exception as failure:  # one bad batch must not take the model down
        return [error(f"reranker: {failure}") for _ in requests]
