"""Measure a built diffuser on prompts that training never saw, in the pixels; writes a sheet of samples.

python evaluate.py --model ../../../.state/models/diffuser/1/weights --sheet sheet.png
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
import openvino_genai
from data import SIZE, Scene, Seen, Verdict, evaluation_scenes, judge, prompt_accuracy, recognise, share
from PIL import Image, ImageDraw, ImageFont

__all__ = ["prompt_accuracy"]  # what a build's verification calls


def sheet(pictures: list[np.ndarray], scenes: list[Scene], columns: int = 6) -> Image.Image:
    """Pictures in rows, each above its prompt."""
    wide, high, font = SIZE + 20, SIZE + 50, ImageFont.load_default(11)
    whole = Image.new("RGB", (wide * columns, high * -(-len(pictures) // columns)), (225, 225, 225))
    canvas = ImageDraw.Draw(whole)
    for number, (picture, scene) in enumerate(zip(pictures, scenes, strict=True)):
        left, top = wide * (number % columns) + 10, high * (number // columns) + 8
        whole.paste(Image.fromarray(picture), (left, top))
        canvas.multiline_text((left, top + SIZE + 3), textwrap.fill(scene.prompt, 25), (0, 0, 0), font, spacing=1)
    return whole


def words(seen: list[Seen]) -> str:
    return ", ".join(f"{s.size} {s.colour} {s.shape} at {s.x:.0f},{s.y:.0f}" for s in seen) or "nothing"


def report(name: str, found: list[Verdict]) -> None:
    for key, label in (("objects", "shapes and colours"), ("sizes", "sizes"), ("place", "place or relation")):
        answers = [value for verdict in found if (value := getattr(verdict, key)) is not None]
        if answers:
            print(f"{name}: {label} right {sum(answers)} of {len(answers)} ({share(answers):.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a built version's weights folder")
    parser.add_argument("--count", type=int, default=200, help="prompts")
    parser.add_argument("--seed", type=int, default=2026, help="of the prompts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sheet", type=Path, help="where to write the first 30 pictures")
    args = parser.parse_args()
    pipeline = openvino_genai.Text2ImagePipeline(args.model, "CPU", INFERENCE_PRECISION_HINT="f32")
    scenes = evaluation_scenes(args.count, args.seed)
    pictures, found = [], []
    for number, scene in enumerate(scenes):
        drawn = pipeline.generate(
            scene.prompt, width=SIZE, height=SIZE, num_inference_steps=args.steps, guidance_scale=args.guidance,
            generator=openvino_genai.CppStdGenerator(number),
        )  # fmt: skip
        pictures.append(np.array(drawn.data)[0])
        seen = recognise(pictures[-1])
        verdict = judge(scene.asked, scene.relation, seen)
        found.append(verdict)
        if not verdict.objects or verdict.sizes is False or verdict.place is False:
            print(f"{scene.prompt!r} looks like {words(seen)}")
    for size, name in ((1, "one object"), (2, "two objects")):
        report(name, [v for v, s in zip(found, scenes, strict=True) if len(s.asked) == size])
    report("all", found)
    if args.sheet:
        sheet(pictures[:30], scenes[:30]).save(args.sheet)


if __name__ == "__main__":
    main()
