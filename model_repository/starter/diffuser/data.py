"""Pictures of coloured shapes with prompts, and the measure that reads shape and colour back from pixels."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64  # pixels a side
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (245, 215, 20),
    "orange": (250, 130, 10),
    "purple": (130, 40, 170),
    "pink": (250, 150, 190),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
PROMPTS = (
    "a {c} {s}",
    "{c} {s}",
    "draw a {c} {s}",
    "a picture of a {c} {s}",
    "an image of a {c} {s} on a white background",
    "one {c} {s} please",
    "a simple drawing of a {c} {s}",
    "a {s} that is {c}",
    "a {s} in {c}",
    "the {c} {s}",
    "a large {c} {s}",
    "a {s}, {c}",
)


def outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corner points of a shape around (x, y); a circle has 64."""
    if shape == "cross":
        arm = radius * 0.36
        steps = [(-arm, -radius), (arm, -radius), (arm, -arm), (radius, -arm), (radius, arm), (arm, arm)]
        steps += [(-a, -b) for a, b in steps]
        return [(x + a, y + b) for a, b in steps]
    corners, start, inner = {
        "circle": (64, 0.0, 1.0),
        "square": (4, math.pi / 4, 1.0),
        "triangle": (3, -math.pi / 2, 1.0),
        "star": (10, -math.pi / 2, 0.42),
    }[shape]
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [
        (x + radius * (inner if i % 2 else 1) * math.cos(a), y + radius * (inner if i % 2 else 1) * math.sin(a))
        for i, a in enumerate(angles)
    ]


def render(shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float) -> Image.Image:
    """The shape on white, antialiased, SIZE x SIZE RGB; x, y and radius in pixels."""
    scale = 4
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), "white")
    ImageDraw.Draw(image).polygon([(a * scale, b * scale) for a, b in outline(shape, x, y, radius)], fill=colour)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def sample(rng: random.Random) -> tuple[Image.Image, str]:
    """A picture and a prompt for it."""
    shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    radius = rng.uniform(17, 25)
    x, y = (rng.uniform(radius + 2, SIZE - radius - 2) for _ in range(2))
    jitter = tuple(min(255, max(0, v + rng.randint(-8, 8))) for v in COLOURS[colour])
    return render(shape, jitter, x, y, radius), rng.choice(PROMPTS).format(c=colour, s=shape)  # type: ignore[arg-type]


def recognise(image: Image.Image) -> tuple[str, str] | None:
    """(shape, colour) of the one object on a light background, or None where there is none.

    The object is what differs from white; its colour is the nearest of COLOURS to the median pixel,
    its shape the one whose drawing, fitted to the object's box, has the greatest intersection over union.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), dtype=np.float32)
    mask = np.abs(pixels - 255).max(axis=-1) > 100
    if mask.sum() < 60:
        return None
    median = np.median(pixels[mask], axis=0)
    colour = min(COLOURS, key=lambda name: float(np.linalg.norm(median - np.array(COLOURS[name]))))
    rows, columns = np.where(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    fitted = np.asarray(Image.fromarray(box).resize((48, 48)))

    def overlap(shape: str) -> float:
        drawn = np.asarray(render(shape, (0, 0, 0), 32, 32, 26).convert("L")) < 128
        r, c = np.where(drawn)
        template = Image.fromarray(drawn[r.min() : r.max() + 1, c.min() : c.max() + 1]).resize((48, 48))
        other = np.asarray(template)
        return float((fitted & other).sum() / (fitted | other).sum())

    return max(SHAPES, key=overlap), colour
