"""Measure a diffuser: each shape in each colour, recognised in the pixels; writes a sheet of samples.

python evaluate.py --model ../../../.state/models/diffuser/1/weights --sheet sheet.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino_genai
from data import COLOURS, PROMPTS, SHAPES, SIZE, recognise
from PIL import Image


def prompt_accuracy(draw: Callable[[str, int], np.ndarray], prompts: int) -> float:
    """Share of prompts whose picture shows the shape in the colour; ``draw(prompt, seed)`` gives uint8 RGB.

    What the build's verification calls. The prompts walk through all shapes and colours.
    """
    right = 0
    for i in range(prompts):
        shape, colour = SHAPES[i % len(SHAPES)], list(COLOURS)[i // len(SHAPES) % len(COLOURS)]
        pixels = draw(PROMPTS[i % len(PROMPTS)].format(c=colour, s=shape), i)
        right += recognise(Image.fromarray(pixels)) == (shape, colour)
    return right / prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a built version's weights folder")
    parser.add_argument("--rounds", type=int, default=5, help="pictures of each shape in each colour")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    pipeline = openvino_genai.Text2ImagePipeline(args.model, "CPU")
    wrong, rows = [], []
    for i, shape in enumerate(SHAPES):
        row = []
        for j, colour in enumerate(COLOURS):
            for turn in range(args.rounds):
                prompt = PROMPTS[(i * 3 + j + turn) % len(PROMPTS)].format(c=colour, s=shape)
                seed = openvino_genai.CppStdGenerator(turn * 1000 + i * 10 + j)
                drawn = pipeline.generate(
                    prompt,
                    width=SIZE,
                    height=SIZE,
                    num_inference_steps=args.steps,
                    guidance_scale=args.guidance,
                    generator=seed,
                )
                pixels = np.array(drawn.data)[0]
                if (seen := recognise(Image.fromarray(pixels))) != (shape, colour):
                    wrong.append(f"{prompt!r} looks like {seen}")
                if turn == 0:
                    row.append(pixels)
        rows.append(np.hstack(row))
    total = len(SHAPES) * len(COLOURS) * args.rounds
    print(f"shape and colour right {total - len(wrong)} of {total}")
    print("\n".join(wrong))
    if args.sheet:
        Image.fromarray(np.vstack(rows)).save(args.sheet)


if __name__ == "__main__":
    main()
