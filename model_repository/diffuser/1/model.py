"""Triton model ``diffuser`` on a CPU: a Stable-Diffusion-shaped pipeline in OpenVINO GenAI, one image at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai
from drawing import Cancelled, Diffuser, Drawing
from plugin import options
from tokenizers.pre_tokenizers import ByteLevel

BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


def unknown_letters(folder: Path) -> set[str]:
    """Letters (of byte-level BPE, one a byte) that a text encoder's vocabulary lacks, within a word or at its end.
    OpenVINO's tokenizer fails on them."""
    unknown = set[str]()
    for file in folder.glob("tokenizer*/vocab.json"):
        known = json.loads(file.read_text()).keys()
        unknown |= {letter for letter in ByteLevel.alphabet() if not {letter, f"{letter}</w>"} <= known}
    return unknown


def readable(text: str, unknown: set[str]) -> str:
    """The text with a space in place of each character that has an unknown letter."""
    return "".join(" " if unknown & set(BYTES.pre_tokenize_str(c.lower())[0][0]) else c for c in text)


class TritonPythonModel(Diffuser):
    def load(self, args: dict[str, str], folder: Path, card: dict[str, Any]) -> None:
        self.unknown = unknown_letters(folder)
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

        prompt, negative = (readable(asked[name], self.unknown) for name in ("prompt", "negative_prompt"))
        options = {"negative_prompt": negative} if asked["negative_prompt"] else {}
        image = self.pipeline.generate(
            prompt, width=asked["width"], height=asked["height"], num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance_scale"], generator=openvino_genai.CppStdGenerator(asked["seed"] % 2**32),
            callback=after_step, **options,
        )  # fmt: skip
        if left and drawing.done < asked["steps"]:
            raise Cancelled
        # The engine calls back from a thread of its own, and drops what that thread has not come to when it is done.
        for step in range(drawing.done + 1, asked["steps"] + 1):
            drawing.after_step(step, None)
        return np.array(image.data)[0]
