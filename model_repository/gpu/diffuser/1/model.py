"""Triton model ``diffuser`` on a GPU: a Stable-Diffusion-shaped pipeline in torch (diffusers), one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from drawing import Diffuser, Drawing
from noise import normal
from torch_device import place_of


class _Silent(Drawing):
    """A drawing for nobody, to warm up."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked, None)

    def after_step(self, done: int, decode: Any) -> None:
        self.done = done


class TritonPythonModel(Diffuser):
    def load(self, args: dict[str, str], folder: Any, card: dict[str, Any]) -> None:
        self.device, self.dtype = place_of(args, card)
        self.pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=self.dtype).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        size = {"width": card["default_width"], "height": card["default_height"]}
        asked = {"prompt": "warm up", "negative_prompt": "", "steps": 2, "guidance_scale": 2.0, "seed": 0} | size
        self.generate(_Silent(asked))

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        """A picture, uint8 height x width x RGB, of latents (1, channels, h, w)."""
        vae = self.pipeline.vae
        picture = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0][0]
        pixels = ((picture.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def generate(self, drawing: Drawing) -> np.ndarray:
        asked, pipeline = drawing.asked, self.pipeline
        seed = asked["seed"] % 2**32
        scale = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, asked["height"] // scale, asked["width"] // scale)
        noise = torch.from_numpy(normal(seed, int(np.prod(shape))).reshape(shape))

        def on_step(_pipeline: Any, step: int, _time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            if self.device.type == "cuda":
                # The host runs ahead of the GPU; a step counts, and the client is asked for, when it is done.
                torch.cuda.synchronize(self.device)
            drawing.after_step(min(step + 1, asked["steps"]), lambda: self._decode(tensors["latents"]))
            return {}

        latents = pipeline(
            asked["prompt"], negative_prompt=asked["negative_prompt"] or None, width=asked["width"],
            height=asked["height"], num_inference_steps=asked["steps"], guidance_scale=asked["guidance_scale"],
            latents=noise.to(self.device, self.dtype), output_type="latent", callback_on_step_end=on_step,
            # For schedulers that add noise at each step.
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
        return self._decode(latents)
