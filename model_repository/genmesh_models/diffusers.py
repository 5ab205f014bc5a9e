"""Builder of diffusers: Stable-Diffusion-shaped pipelines in the diffusers folder format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError
from genmesh_models.export import export
from genmesh_models.sources import read_json, recipe

from plugin import options

# Prompts that both pipelines draw from the same noise.
PROMPTS = (
    "a red circle",
    "a small blue star in the top left",
    "a green square next to a black cross",
    "a yellow triangle",
)
STEPS = 12
ACCURACY_PROMPTS = 24
# What quantization watches the U-Net draw.
CALIBRATED_PROMPTS = (
    "a large orange square",
    "two purple circles side by side",
    "a small white star above a grey triangle",
    "a black cross in the bottom right corner on a blue background",
    "a photograph of a lighthouse on a rocky coast at dusk",
    "a bowl of oranges on a wooden table, oil painting",
    "portrait of an old man with a grey beard",
    "",
)


def drawer(folder: Path, card: Mapping[str, Any], width: int, height: int, steps: int, guidance: float) -> Any:
    """A function (prompt, seed) -> uint8 array [height, width, 3]."""
    import openvino_genai

    pipeline = openvino_genai.Text2ImagePipeline(folder, "CPU", **options(card))

    def draw(prompt: str, seed: int) -> np.ndarray:
        found = pipeline.generate(
            prompt, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance,
            generator=openvino_genai.CppStdGenerator(seed),
        )  # fmt: skip
        return np.array(found.data)[0]

    return draw


def quantize_unet(source: Path, full: Path, out: Path, side: int, guidance: float) -> None:
    """Weights and activations of the U-Net in INT8: post-training quantization of ``full``'s, on what it is given while
    the checkpoint draws."""
    import nncf
    import openvino as ov
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    model = ov.Core().read_model(full / "unet" / "openvino_model.xml")
    names = {name for port in model.inputs for name in port.names}
    samples: list[dict[str, np.ndarray]] = []

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
        found = {key: np.asarray(value) for key, value in given.items() if key in names and value is not None}
        samples.append(found | {"timestep": np.asarray(found["timestep"]).reshape(-1)})

    pipeline.unet.register_forward_pre_hook(watch, with_kwargs=True)
    for seed, prompt in enumerate(CALIBRATED_PROMPTS):
        pipeline(
            prompt, width=side, height=side, num_inference_steps=STEPS, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), output_type="latent",
        )  # fmt: skip
    smaller = nncf.quantize(
        model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )  # fmt: skip
    ov.save_model(smaller, out / "unet" / "openvino_model.xml")


def _export(source: Path, out: Path, precision: str) -> None:
    """Export; its scheduler spaces steps evenly from the last to the first where it would space them "trailing".

    OpenVINO GenAI 2026.4 adds trailing steps up in single precision and makes one too many for a third of all counts
    (9, 11, 12, 18, 30 ...), which draws noise. Even spacing starts at the same step and is right for every count.
    """
    export(source, out, "text-to-image", precision)
    file = out / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    if config.get("timestep_spacing") == "trailing":
        file.write_text(json.dumps(config | {"timestep_spacing": "linspace"}, indent=2, sort_keys=True) + "\n")


def check(source: Path, entry: Entry) -> None:
    """BuildError where a checkpoint is of no kind that is served."""
    index = read_json(source / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise BuildError(
            f"{entry.name}: {source} holds a {index.get('_class_name')}; diffusers may be of StableDiffusionPipeline"
        )


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    # Post-training quantization is the U-Net's, which draws; the others run once a picture.
    _export(source, out, "int8-weights" if entry.precision == "int8" else entry.precision)
    unet, vae = read_json(source / "unet" / "config.json"), read_json(source / "vae" / "config.json")
    side = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    guidance = entry.limits["default_guidance_scale"]
    with tempfile.TemporaryDirectory(dir=out.parents[1]) as folder:  # outside of the version
        full = Path(folder) / "full"
        _export(source, full, "fp32")
        if entry.precision == "int8":
            quantize_unet(source, full, out, side, guidance)
        compared = ((out, entry.hints), (full, {}))
        pair = [drawer(path, hints, side, side, STEPS, guidance) for path, hints in compared]
        drawn = [tuple(draw(prompt, seed) for draw in pair) for seed, prompt in enumerate(PROMPTS)]
        figures = verification.pictures(drawn)
    if entry.evaluate is not None and not entry.overridden:
        draw = drawer(out, entry.hints, side, side, entry.limits["default_steps"], guidance)
        measure = recipe(entry.evaluate, "evaluate")
        figures.append(verification.figure("prompt_accuracy", measure.prompt_accuracy(draw, ACCURACY_PROMPTS)))
    facts = {"engine": "openvino-genai", "default_width": side, "default_height": side, "verification": figures}
    return facts | entry.hints
