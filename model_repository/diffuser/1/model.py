"""Triton model ``diffuser`` on a CPU: a Stable-Diffusion-shaped pipeline in OpenVINO GenAI, one image at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai
from drawing import Cancelled, Diffuser, Drawing
from plugin import options


# GPT-2's letters for bytes, in which CLIP's vocabularies are written.
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTERS = dict(zip(PLAIN, map(chr, PLAIN), strict=True))
LETTERS |= {byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in LETTERS)}


def unknown_bytes(folder: Path) -> set[int]:
    """Bytes that a text encoder's vocabulary lacks, at a word's end or elsewhere: OpenVINO's tokenizer breaks off at them."""
    found = set()
    for file in folder.glob("tokenizer*/vocab.json"):
        known = json.loads(file.read_text())
        found |= {b for b, letter in LETTERS.items() if not {letter, f"{letter}</w>"} <= known.keys()}
    return found


def readable(text: str, unknown: set[int]) -> str:
    """A text without the characters that have unknown bytes."""
    return "".join(" " if unknown & set(c.lower().encode()) else c for c in text)


class TritonPythonModel(Diffuser):
    def load(self, args: dict[str, str], folder: Path, card: dict[str, Any]) -> None:
        self.unknown = unknown_bytes(folder)
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

        options = (
            {"negative_prompt": readable(asked["negative_prompt"], self.unknown)} if asked["negative_prompt"] else {}
        )
        image = self.pipeline.generate(
            readable(asked["prompt"], self.unknown), width=asked["width"], height=asked["height"], num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance_scale"], generator=openvino_genai.CppStdGenerator(asked["seed"] % 2**32),
            callback=after_step, **options,
        )  # fmt: skip
        if left and drawing.done < asked["steps"]:
            raise Cancelled
        # The engine calls back from a thread of its own, and drops what that thread has not come to when it is done.
        for step in range(drawing.done + 1, asked["steps"] + 1):
            drawing.after_step(step, None)
        return np.array(image.data)[0]
