"""What a checkpoint has behind its encoder: sentence-transformers' Dense modules, or ColBERT's linear layer.

Read by the builds, and by the models of the profile ``gpu``, beside whose ``model.py`` the build copies it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU")  # torch.nn's


def dense_of(source: Path) -> list[Path]:
    """The folders of a checkpoint's Dense modules, in their order."""
    path = source / "modules.json"
    modules: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return [source / m["path"] for m in modules if str(m.get("type", "")).rpartition(".")[2] == "Dense"]


def is_colbert(source: Path) -> bool:
    """Whether a folder is a checkpoint of ColBERT's own library, whose linear layer lies beside the encoder's weights."""
    config = json.loads((source / "config.json").read_text())
    return "ColBERT" in (config.get("architectures") or [""])[0]


def projection_of(source: Path) -> Any:
    """The layers as a torch.nn.Sequential, float32, from hidden size to the vectors' dimension; empty where there are none."""
    import torch
    from safetensors.torch import load_file

    def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight.data = weight.float()
        if bias is not None:
            layer.bias.data = bias.float()
        return layer

    if is_colbert(source):
        return torch.nn.Sequential(linear(load_file(source / WEIGHTS)["linear.weight"], None))
    layers: list[torch.nn.Module] = []
    for folder in dense_of(source):
        config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / WEIGHTS)
        name = str(config.get("activation_function", "Identity")).rpartition(".")[2]
        if name not in ACTIVATIONS:
            raise ValueError(f"{folder} has the activation {name}; there is {', '.join(ACTIVATIONS)}")
        layers += [linear(tensors["linear.weight"], tensors.get("linear.bias")), getattr(torch.nn, name)()]
    return torch.nn.Sequential(*layers).eval()
