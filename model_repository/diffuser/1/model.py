"""Triton model ``diffuser`` on a CPU: a Stable-Diffusion-shaped pipeline in OpenVINO GenAI, one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino_genai
from drawing import Cancelled, Diffuser, Drawing
from plugin import options


class TritonPythonModel(Diffuser):
    def load(self, args: dict[str, str], folder: Any, card: dict[str, Any]) -> None:
        self.pipeline = openvino_genai.Text2ImagePipeline(folder, "CPU", **options(card))

    def generate(self, drawing: Drawing) -> np.ndarray:
        asked, left = drawing.asked, False

        def after_step(step: int, total: int, latent: Any) -> bool:
            nonlocal left
            try:
                drawing.after_step(step + 1, lambda: np.array(self.pipeline.decode(latent).data)[0])
            except Cancelled:  # an exception would not pass through the pipeline
                left = True
            return left

        options = {"negative_prompt": asked["negative_prompt"]} if asked["negative_prompt"] else {}
        image = self.pipeline.generate(
            asked["prompt"], width=asked["width"], height=asked["height"], num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance_scale"], generator=openvino_genai.CppStdGenerator(asked["seed"] % 2**32),
            callback=after_step, **options,
        )  # fmt: skip
        if left and drawing.done < asked["steps"]:
            raise Cancelled
        # The engine calls back from a thread of its own, and drops what that thread has not come to when it is done.
        for step in range(drawing.done + 1, asked["steps"] + 1):
            drawing.after_step(step, None)
        return np.array(image.data)[0]
