"""Builder of upscalers: the starter's GAN generator, between uint8 images of any height and width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError
from genmesh_models.sources import read_json, recipe

from plugin import options

RECIPE = "starter/upscaler"
PICTURES = 24  # held-out pictures of 128 x 128 in verification


def check(source: Path, entry: Entry) -> None:
    """BuildError where a checkpoint is of no kind that is served."""
    config = read_json(source / "config.json")
    if config.get("model_type") != "genmesh-upscaler":
        raise BuildError(
            f"{entry.name}: {source} holds a {config.get('model_type')!r}; "
            "upscalers may be of genmesh-upscaler (model_repository/starter/upscaler)"
        )


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    import nncf
    import openvino as ov
    import torch

    config = read_json(source / "config.json")
    data, network = recipe(RECIPE, "data"), recipe(RECIPE, "network")
    generator = network.load(source)
    full = network.Pixels(generator).eval()
    example = torch.zeros(32, 48, 3, dtype=torch.uint8)
    model = ov.convert_model(full, example_input=example, input=[ov.PartialShape([-1, -1, 3])])
    if entry.precision == "int8":
        samples = [data.reduce(truth) for truth, _ in data.familiar(32)]
        # The bicubic path and the layers at both ends carry the pixels themselves: 8 bits there would be seen.
        model = nncf.quantize(
            model, nncf.Dataset(samples), preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(
                types=["GroupConvolution"],
                patterns=[".*generator.head.*", ".*generator.tail.*", rf".*generator.body.{generator.blocks}/.*"],
                validate=False,
            ),
        )  # fmt: skip
    elif entry.precision == "int8-weights":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=entry.precision not in ("fp32", "bf16"))
    compiled = ov.Core().compile_model(str(out / "openvino_model.xml"), "CPU", options(entry.hints))

    def theirs(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(full(torch.from_numpy(np.array(pixels))).contiguous())

    def ours(pixels: np.ndarray) -> np.ndarray:
        return np.array(compiled(pixels)[0])

    figures = verify(ours, theirs)
    facts = {"engine": "openvino", "scale": config["scale"], "reach": generator.reach, "verification": figures}
    return facts | entry.hints


def verify(ours: Any, theirs: Any) -> list[verification.Figure]:
    """Held-out pictures, enlarged by the built network, against the full-precision one's, bicubic's, and the truth."""
    data, metrics = recipe(RECIPE, "data"), recipe(RECIPE, "metrics")
    pairs, gains, sharpness = [], [], []
    for truth, _ in data.held_out(PICTURES, seed=5, side=128):
        small = data.reduce(truth)
        enlarged, bicubic = ours(small), data.bicubic(small)
        pairs.append((enlarged, theirs(small)))
        gains.append(metrics.psnr(enlarged, truth) - metrics.psnr(bicubic, truth))
        sharpness.append((metrics.sharpness(enlarged, truth), metrics.sharpness(bicubic, truth)))
    sharp, blurred = np.mean(sharpness, axis=0)
    return [
        *verification.pictures(pairs),
        verification.figure("psnr_over_bicubic_db", float(np.mean(gains))),
        verification.figure("sharpness_over_bicubic", float(sharp / blurred)),
    ]
