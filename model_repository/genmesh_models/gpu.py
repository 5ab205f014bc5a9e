"""Builder of the GPU profile: checkpoints in the precision that they are served in, for torch and for vLLM.

Nothing here needs a GPU. Where weights are cast, or quantized already and the catalogue names the full-precision
source, the verification runs them on this machine's CPU, in float32: it measures what that cost. What half precision
costs in activations shows on a GPU only.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import awq, diffusers, generators, upscalers, verification, versions
from genmesh_models.catalogue import REPOSITORY, Entry
from genmesh_models.diffusers import PROMPTS
from genmesh_models.errors import BuildError
from genmesh_models.sources import folder_of, read_json, recipe, tokenizer_of
from genmesh_models.texts import held_out

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's names
TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
VERIFIED_TEXTS = 8
VERIFIED_STEPS = 4
WITHOUT_LORA = {"gpt2"}  # architectures that vLLM serves without adapters
UPSCALER_TILE = 512  # pixels
HOW_TO_AWQ = (
    "quantize it where a GPU is with AutoAWQ (quant_config: zero_point true, q_group_size 128, w_bit 4, version GEMM), "
    "or take one that is quantized so from the hub, and give that as the source"
)


def check(source: Path, entry: Entry) -> None:
    """BuildError where a checkpoint is of no kind that is served."""
    if entry.task in ("embed", "rerank"):
        from genmesh_models import encoders  # and OpenVINO with it

        encoders.check(source, entry)
    else:
        {"generate": check_generator, "diffuse": diffusers.check, "upscale": upscalers.check}[entry.task](source, entry)


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """Write what is served to ``out``, a version's weights folder; the facts of its card."""
    builder = {"embed": encoder, "rerank": encoder, "generate": generator, "diffuse": diffuser, "upscale": upscaler}
    return builder[entry.task](source, out, entry)


def copy_texts(source: Path, out: Path) -> None:
    """Configurations, vocabularies and chat templates."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in TEXT_FILES:
        for path in source.glob(pattern):
            shutil.copy(path, out)


def weight_files(source: Path) -> list[Path]:
    """A folder's safetensors files; of several variants of the same weights the plain one."""
    found = [p for p in sorted(source.glob("*.safetensors")) if not {".fp16", ".non_ema"} & set(p.suffixes)]
    if not found:
        raise BuildError(f"{source} holds no safetensors file")
    return found


def cast(source: Path, out: Path, precision: str) -> bool:
    """Copy a folder's checkpoint with its floating-point weights in another dtype; whether any changed."""
    import torch
    from safetensors.torch import load_file, save_file

    copy_texts(source, out)
    dtype, changed = getattr(torch, DTYPES[precision]), False
    for path in weight_files(source):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != dtype:
                tensors[name], changed = tensor.to(dtype), True
                if not torch.isfinite(tensors[name]).all():
                    raise BuildError(f"{path}: {name} has numbers that {DTYPES[precision]} cannot hold")
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    config = read_json(out / "config.json")
    for key in {"dtype", "torch_dtype"} & set(config):
        config[key] = DTYPES[precision]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return changed


# Encoders


def encoder(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """An embedder or a reranker for torch, or a token table."""
    from genmesh_models import encoders

    if entry.task == "embed" and (table := encoders.table_in(source)) is not None:
        return encoders.build_table(source, table, out, entry)
    import torch

    tokenizer = tokenizer_of(entry.name, source)
    facts = encoders.facts_of(source, read_json(source / "config.json"), entry) | {"engine": "torch-cuda"}
    crossed = facts.get("scoring") == "cross-encoder"
    facts["token_types"] = crossed and "token_type_ids" in tokenizer.model_input_names
    sys.path.insert(0, str(REPOSITORY / "gpu" / "shared"))
    from projection import dense_of, projection_of
    from torch_encoder import Encoder, network_of

    cast(source, out, entry.precision)
    tokenizer.save_pretrained(out)
    for folder in dense_of(source):
        shutil.copytree(folder, out / folder.relative_to(source), dirs_exist_ok=True)
    built = Encoder(out, facts, torch.device("cpu"), torch.float32)
    full = copy(built)
    full.network = network_of(source, facts).float()
    full.projection = projection_of(source)
    return facts | {"verification": encoders.verified(entry.task, facts, built, full)}


# Generators


def check_generator(source: Path, entry: Entry) -> None:
    """BuildError where vLLM could not serve a checkpoint as the catalogue says."""
    config = read_json(source / "config.json")
    kind = config.get("model_type")
    if kind in generators.ENCODER_DECODERS or config.get("is_encoder_decoder"):
        raise BuildError(
            f"{entry.name}: {source} holds an encoder-decoder ({kind}); on GPUs vLLM serves decoders, "
            "the cpu profile serves both"
        )
    named = [str(name) for name in config.get("architectures") or []]
    if named and not any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in named):
        raise BuildError(f"{entry.name}: {source} holds a {', '.join(named)}, which does not generate text")
    held = config.get("quantization_config") or {}
    method = held.get("quant_method")
    if entry.precision == "awq" and method != "awq":
        raise BuildError(
            f"{entry.name}: {source} is not an AWQ checkpoint (its config.json names {method or 'no'} "
            f"quantization): {HOW_TO_AWQ}"
        )
    if entry.precision in DTYPES and method is not None:
        raise BuildError(f"{entry.name}: {source} is quantized already ({method}), so it cannot be {entry.precision}")
    if not positions(config):
        raise BuildError(f"{entry.name}: {source / 'config.json'} does not say how many tokens the model reads")


def positions(config: dict[str, Any]) -> Any:
    return config.get("max_position_embeddings") or config.get("n_positions")


def generator(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """A decoder for vLLM, and the engine's arguments beside its weights."""
    config = read_json(source / "config.json")
    kind, context = config.get("model_type"), positions(config)
    held = config.get("quantization_config") or {}
    method = held.get("quant_method")
    tokenizer = tokenizer_of(entry.name, source)
    figures: list[verification.Figure] = []
    if entry.precision in DTYPES:
        if cast(source, out, entry.precision):
            figures = verification.predictions(logits(in_float32(out), source))
    else:
        copy_texts(source, out)
        for path in weight_files(source):
            shutil.copy(path, out)
    if method == "awq" and entry.reference is not None:
        full = folder_of(replace(entry, source=entry.reference))
        figures = verification.predictions(logits(awq.model_of(source, weight_files(source)), full))
    tokenizer.save_pretrained(out)
    ends = config.get("eos_token_id")
    if (source / "generation_config.json").is_file():
        ends = read_json(source / "generation_config.json").get("eos_token_id", ends)
    facts = {
        "engine": "vllm",
        "architecture": kind,
        "context_tokens": min(int(entry.limits.get("context_tokens", context)), int(context)),
        "vocabulary_size": int(config["vocab_size"]),
        "end_token_ids": ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends],
        "begin_token": tokenizer.bos_token,
        "begin_token_id": tokenizer.bos_token_id,
        "prompt_lookup_tokens": 0,  # of vLLM that is a setting of the whole engine
        "parameter_count": parameter_count(out, held.get("bits") or held.get("w_bit") or 4),
        "verification": figures,
    }
    if kind in WITHOUT_LORA:
        facts["max_adapters"] = 0
    arguments = engine_arguments(entry, facts, quantized=method is not None)
    (out.parent / "model.json").write_text(json.dumps(arguments, indent=2) + "\n")
    return facts


def in_float32(checkpoint: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def logits(built: Any, full: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(the built network's logits, those of the checkpoint in full precision, the next tokens) of held-out answers, all
    in float32."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(full)
    pair = [built, in_float32(full)]
    for prompt, answer in held_out(tokenizer, built.config.max_position_embeddings, VERIFIED_TEXTS):
        ids = torch.tensor([prompt + answer])
        with torch.inference_mode():
            ours, theirs = (model(ids).logits[0, len(prompt) - 1 : -1].numpy() for model in pair)
        yield ours, theirs, np.array(answer)


def parameter_count(folder: Path, bits: int) -> int:
    """The model's parameters; AWQ packs several into each int32 of a ``qweight``, with scales and zeros beside."""
    from safetensors import safe_open

    total = 0
    for path in weight_files(folder):
        with safe_open(path, "np") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                if key.endswith((".scales", ".qzeros", ".weight_scale", ".input_scale")):
                    continue
                size = int(np.prod(tensors.get_slice(key).get_shape()))
                total += size * 32 // bits if key.endswith(".qweight") else size
    return total


def engine_arguments(entry: Entry, facts: dict[str, Any], *, quantized: bool) -> dict[str, Any]:
    """vLLM's AsyncEngineArgs of a model: the template's, the catalogue's limits, the checkpoint's context.

    The quantization of an AWQ checkpoint is not named: vLLM reads it from config.json and takes the
    fastest kernel that the GPU has, while a name ("awq") forces the plain one. The paths are set by ``settle``.
    """
    arguments = read_json(entry.template / "1" / "model.json")
    arguments["dtype"] = {"fp8": "auto", "awq": "float16"}.get(entry.precision) or DTYPES[entry.precision]
    arguments["max_model_len"] = facts["context_tokens"]
    if entry.precision == "fp8" and not quantized:
        arguments["quantization"] = "fp8"  # vLLM casts the weights when it loads them
    named = {
        "max_sequences": "max_num_seqs",
        "max_batched_tokens": "max_num_batched_tokens",
        "gpu_memory_utilization": "gpu_memory_utilization",
        "tensor_parallel_size": "tensor_parallel_size",
    }
    if entry.limits.get("max_adapters") and facts.get("max_adapters", 1):
        arguments["enable_lora"] = True
        named |= {"max_adapters": "max_loras", "max_adapter_rank": "max_lora_rank"}
    return arguments | {theirs: entry.limits[ours] for ours, theirs in named.items() if ours in entry.limits}


def settle(model: Path, number: int) -> None:
    """Write what a placed version of vLLM's needs to know of its place: its weights' path, and the adapters'.

    vLLM takes relative paths from the folder that Triton was started in, which must be the model
    repository. Call it again after an adapter was trained; vLLM reads the list when the model loads.
    """
    version = model / str(number)
    arguments = read_json(version / "model.json") | {"model": f"{model.name}/{number}/weights"}
    versions.write_whole(version / "model.json", json.dumps(arguments, indent=2) + "\n")
    if not arguments.get("enable_lora"):
        return
    base = read_json(version / "card.json")["source_sha256"]
    adapters = {
        path.parent.name: f"{model.name}/adapters/{path.parent.name}"
        for path in sorted(model.glob("adapters/*/adapter.json"))
        if read_json(path).get("base_sha256") == base
    }
    versions.write_whole(version / "multi_lora.json", json.dumps(adapters, indent=2) + "\n")


# Pictures


def diffuser(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """A Stable-Diffusion-shaped pipeline in diffusers' format, without its safety checker."""
    index = read_json(source / "model_index.json")
    unused = {"safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None]}
    index |= unused | {"requires_safety_checker": False}
    out.mkdir(parents=True, exist_ok=True)
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for name in ("scheduler", "tokenizer"):
        copy_texts(source / name, out / name)
    changed = [cast(source / name, out / name, entry.precision) for name in ("text_encoder", "unet", "vae")]
    unet, vae = read_json(source / "unet" / "config.json"), read_json(source / "vae" / "config.json")
    side = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    figures: list[verification.Figure] = []
    if any(changed):
        guidance = entry.limits["default_guidance_scale"]
        figures = verification.pictures([tuple(drawn(path, side, guidance) for path in (out, source))])
    return {"engine": "torch-cuda", "default_width": side, "default_height": side, "verification": figures}


def drawn(checkpoint: Path, side: int, guidance: float) -> np.ndarray:
    """A picture of few steps, for each takes long on a CPU; (side, side, 3) uint8, in float32."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        PROMPTS[0], width=side, height=side, num_inference_steps=VERIFIED_STEPS, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    return np.asarray(image)


def upscaler(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """The generator of the upscaler's recipe."""
    config = read_json(source / "config.json")
    import torch

    network = recipe("starter/upscaler", "network")
    figures: list[verification.Figure] = []
    if cast(source, out, entry.precision):
        picture = torch.from_numpy(sample_picture())
        with torch.inference_mode():
            ours, theirs = (network.Pixels(network.load(path))(picture).numpy() for path in (out, source))
        figures = verification.pictures([(ours, theirs)])
    return {
        "engine": "torch-cuda", "scale": config["scale"], "reach": network.load(source).reach,
        "tile": entry.limits.get("tile", UPSCALER_TILE), "verification": figures,
    }  # fmt: skip


def sample_picture(side: int = 128) -> np.ndarray:
    """Slopes, edges and rings, (side, side, 3) uint8: what an upscaler treats differently."""
    y, x = np.mgrid[:side, :side] / side
    rings = np.sin(60 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))
    return (np.stack([x, (x + y > 0.9) * 0.8, 0.5 + 0.5 * rings], -1) * 255).astype(np.uint8)
