"""What the calls carry: sizes and words come from a seed, so that a run can be repeated; each text begins anew."""

from __future__ import annotations

import io
import random
import secrets
from collections.abc import Iterator
from functools import cache

from PIL import Image

WORDS = [
    "river", "stone", "cloud", "engine", "letter", "garden", "winter", "copper", "market", "bridge", "signal", "harbour",
    "lantern", "meadow", "thunder", "velvet", "anchor", "basket", "candle", "desert", "ember", "falcon", "glacier",
    "hammer", "island", "jacket", "kettle", "ladder", "mirror", "needle", "orchard", "pillow",
]  # fmt: skip
DIMENSION = 128  # of the vectors that are searched
ENTITIES = 500
PUMPS = 40
COLOURS, SHAPES = ("red", "blue", "green", "yellow"), ("circle", "square", "triangle", "star")


def words(draw: random.Random, span: tuple[int, int]) -> str:
    """A number of words within the span, behind a beginning that nobody sent before."""
    return f"{secrets.token_hex(5)} " + " ".join(draw.choices(WORDS, k=draw.randint(*span)))


def vector(draw: random.Random) -> list[float]:
    return [draw.gauss(0, 1) for _ in range(DIMENSION)]


def question(draw: random.Random) -> str:
    """A question that the documents of ``documents`` answer."""
    pump = draw.randrange(PUMPS)
    kind = draw.choice(("At how many bar does pump {} run?", "Who looks after pump {}?", "When is pump {} checked?"))
    return kind.format(pump) + f" (ticket {secrets.token_hex(4)})"


def documents() -> Iterator[tuple[str, str]]:
    """Id and text of each document that questions are asked of."""
    draw = random.Random("documents")
    for hall in range(PUMPS // 8):
        lines = [f"# Hall {hall}", ""]
        for pump in range(hall * 8, hall * 8 + 8):
            lines += [
                f"## Pump {pump}", "",
                f"Pump {pump} runs at {draw.randint(2, 30)} bar. {draw.choice(('Ada', 'Ben', 'Cleo', 'Dora'))} looks after "
                f"pump {pump}. Pump {pump} is checked every {draw.choice(('Monday', 'Tuesday', 'Friday'))}.", "",
            ]  # fmt: skip
        yield f"hall-{hall}.md", "\n".join(lines)


def picture(draw: random.Random) -> str:
    return f"a {draw.choice(COLOURS)} {draw.choice(SHAPES)}"


@cache
def photograph() -> bytes:
    """A PNG of 64 x 64 pixels to enlarge."""
    data = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(data, "PNG")
    return data.getvalue()
