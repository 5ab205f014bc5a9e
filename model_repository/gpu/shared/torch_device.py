"""Where a model of the GPU profile runs; the build copies it beside each ``model.py``."""

from __future__ import annotations

from typing import Any

import torch


def place_of(args: dict[str, str], card: dict[str, Any]) -> tuple[torch.device, torch.dtype]:
    """The GPU that Triton gave this instance, in the built precision; the CPU in float32 where there is no CUDA.

    Triton itself refuses ``KIND_GPU`` without a GPU, so in a cluster a model never lands on the CPU unseen.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    device = torch.device("cuda", max(0, int(args["model_instance_device_id"])))
    torch.cuda.set_device(device)
    return device, torch.float32 if card["precision"] == "fp32" else torch.float16
