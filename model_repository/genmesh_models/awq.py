"""AWQ checkpoints in float32, so that what 4 bits cost can be measured without a GPU.

AutoAWQ's version "gemm" keeps of a linear layer: ``qweight`` int32 (in, out / 8), ``qzeros`` int32 (in / group, out / 8)
and ``scales`` float16 (in / group, out). Eight columns share an int32, the nibble i of which is column ``ORDER[i]``.
The weight, (out, in), is the transpose of (q - zero) * scale (Lin et al. 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genmesh_models.errors import BuildError

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpacked(packed: Any) -> Any:
    """int32 (rows, columns / 8) as (rows, columns) of 0 to 15."""
    import torch

    found = torch.empty(*packed.shape, 8, dtype=torch.int32)
    for place, column in enumerate(ORDER):
        found[..., column] = (packed >> (4 * place)) & 15
    return found.flatten(1)


def weight(qweight: Any, qzeros: Any, scales: Any) -> Any:
    """float32 (out, in)."""
    group = qweight.shape[0] // scales.shape[0]
    zeros, factors = (one.repeat_interleave(group, 0) for one in (unpacked(qzeros), scales.float()))
    return ((unpacked(qweight) - zeros) * factors).T.contiguous()


def model_of(folder: Path, files: list[Path]) -> Any:
    """The checkpoint as transformers' network in float32; ``files``: its safetensors."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    version = str(config.quantization_config.get("version", "gemm")).lower()
    if version != "gemm" or (config.quantization_config.get("bits") or config.quantization_config.get("w_bit")) != 4:
        raise BuildError(f"{folder}: verification reads AWQ of version gemm and 4 bits, not {version}")
    del config.quantization_config
    packed = {name: tensor for file in files for name, tensor in load_file(file).items()}
    state = {}
    for name, tensor in packed.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            state[f"{layer}.weight"] = weight(tensor, packed[f"{layer}.qzeros"], packed[f"{layer}.scales"])
        elif part not in ("qzeros", "scales"):
            state[name] = tensor.float()
    model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    model.tie_weights()
    if lost := [*unexpected, *(set(missing) - set(model._tied_weights_keys or ()))]:
        raise BuildError(f"{folder}: its weights do not fit its config.json ({', '.join(sorted(lost)[:3])})")
    return model
