"""Scenes of one or two coloured shapes with prompts and their truth, and the measure that reads them back from pixels.

A prompt asks for objects (shape and colour, perhaps a size) and perhaps says where: a place in the picture for
one object, a relation between two. `recognise` finds the objects in a picture, `judge` holds them against the prompt.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels a side
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
# Half of the longer side of the box around an object, pixels: (from, to); and the words for it.
RADII = {"small": (14.0, 16.0), "medium": (21.0, 24.0), "large": (30.0, 34.0)}
PAIR_LARGE = 31.0  # a large object beside another is no larger
SIZE_WORDS = {"small": ("small", "small", "little"), "medium": ("medium",), "large": ("large", "large", "big")}
SIDE_BOUNDS = (36, 52)  # the longer side of a medium object's box, pixels
# A place is (column, row), each 0, 1 or 2; its bounds on the centre of an object, pixels.
THIRDS = (48, 80)
PLACES: dict[str, tuple[int, int]] = {
    "top left": (0, 0), "top": (1, 0), "top right": (2, 0),
    "left": (0, 1), "centre": (1, 1), "right": (2, 1),
    "bottom left": (0, 2), "bottom": (1, 2), "bottom right": (2, 2),
}  # fmt: skip
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    **{name: (f"in the {name}", f"in the {name} corner", f"at the {name}") for name in PLACES if " " in name},
    "top": ("at the top", "on top", "at the top of the picture"),
    "bottom": ("at the bottom", "at the bottom of the picture"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "centre": ("in the centre", "in the middle", "in the center"),
}
# The first object stands ... the second. "beside" leaves open on which side; None says nothing of where.
RELATION_WORDS: dict[str | None, tuple[str, ...]] = {
    "left": ("{a} to the left of {b}", "{a} left of {b}", "{a} on the left of {b}", "{a} on the left and {b} on the right"),
    "right": ("{a} to the right of {b}", "{a} right of {b}", "{a} on the right of {b}", "{a} on the right and {b} on the left"),
    "above": ("{a} above {b}", "{a} over {b}", "{a} at the top and {b} at the bottom"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} at the bottom and {b} at the top"),
    "beside": ("{a} next to {b}", "{a} beside {b}"),
    None: ("{a} and {b}", "{a} and {b}", "{a} with {b}"),
}  # fmt: skip
FRAMES = (
    "{}", "{}", "{}", "{}", "draw {}", "a picture of {}", "an image of {}", "a drawing of {}", "a simple drawing of {}",
    "{} please", "{} on a white background", "please draw {}", "show me {}",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """An object as a prompt names it."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Seen:
    """An object in a picture; centre and the longer side of its box in pixels."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """A picture, its prompt and what the prompt asks: one or two objects, and how the first stands to the second."""

    image: Image.Image
    prompt: str
    asked: tuple[Asked, ...]
    relation: str | None


@dataclass(frozen=True)
class Verdict:
    """Whether a picture holds what its prompt asks; None where the prompt does not say."""

    objects: bool  # exactly these shapes in these colours
    sizes: bool | None
    place: bool | None


@lru_cache
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corner points of a shape whose box is centred on 0 with a longer side of 2; a circle has 64."""
    if shape == "cross":
        arm = 0.36
        steps = [(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)]
        return tuple(steps + [(-a, -b) for a, b in steps])
    corners, start, inner = {
        "circle": (64, 0.0, 1.0),
        "square": (4, math.pi / 4, 1.0),
        "triangle": (3, -math.pi / 2, 1.0),
        "star": (10, -math.pi / 2, 0.42),
    }[shape]
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    points = [
        ((inner if i % 2 else 1) * math.cos(a), (inner if i % 2 else 1) * math.sin(a)) for i, a in enumerate(angles)
    ]
    (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*points, strict=True))
    scale = 2 / max(right - left, bottom - top)
    return tuple(((x - (left + right) / 2) * scale, (y - (top + bottom) / 2) * scale) for x, y in points)


def paint(image: Image.Image, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float) -> None:
    """Paint a shape around (x, y), antialiased; radius is half of the longer side of its box, pixels."""
    scale, left, top = 4, math.floor(x - radius) - 1, math.floor(y - radius) - 1
    side = math.ceil(2 * radius) + 4
    mask = Image.new("L", (side * scale, side * scale), 0)
    points = [((x - left + radius * a) * scale, (y - top + radius * b) * scale) for a, b in outline(shape)]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    image.paste(colour, (left, top), mask.reduce(scale))


def held_out(asked: tuple[Asked, ...], relation: str | None) -> bool:
    """Whether training leaves out what is asked: a tenth of all combinations, save one object with nothing said of it."""
    if len(asked) == 1 and asked[0].size is None and asked[0].place is None:
        return False
    key = repr([(a.shape, a.colour, a.size if len(asked) == 1 else "", a.place) for a in asked]) + str(relation)
    return zlib.crc32(key.encode()) % 10 == 0


def ask(rng: random.Random) -> tuple[tuple[Asked, ...], str | None]:
    """What a prompt asks: a pair three times in five; each size and place is said half of the time or a little more."""

    def thing(size_said: float, place_said: float) -> Asked:
        size = rng.choice(list(RADII)) if rng.random() < size_said else None
        place = rng.choice(list(PLACES)) if rng.random() < place_said else None
        return Asked(rng.choice(SHAPES), rng.choice(list(COLOURS)), size, place)

    if rng.random() < 0.4:
        return (thing(0.5, 0.6),), None
    while True:
        first, second = thing(0.4, 0), thing(0.4, 0)
        if (first.shape, first.colour) != (second.shape, second.colour) and not first.size == second.size == "large":
            relation = rng.choice(
                ["left", "right", "above", "below", "left", "right", "above", "below", "beside", None]
            )
            return (first, second), relation


def phrase(rng: random.Random, asked: Asked) -> str:
    """Words for one object, such as "a small red circle in the top left"."""
    size = rng.choice(SIZE_WORDS[asked.size]) + " " if asked.size else ""
    kind = rng.random()
    if kind < 0.85:
        words = f"{size}{asked.colour} {asked.shape}"
    elif kind < 0.93:
        words = f"{size}{asked.shape} in {asked.colour}"
    else:
        words = f"{size}{asked.shape} that is {asked.colour}"
    article = rng.choice(["", "the ", "one ", "a "]) if rng.random() < 0.3 else ""
    if not article and rng.random() < 0.8:
        article = "an " if words[0] in "aeiou" else "a "
    return article + words + (f" {rng.choice(PLACE_WORDS[asked.place])}" if asked.place else "")


def write(rng: random.Random, asked: tuple[Asked, ...], relation: str | None) -> str:
    """A prompt for what is asked."""
    if len(asked) == 1:
        words = phrase(rng, asked[0])
    else:
        words = rng.choice(RELATION_WORDS[relation]).format(a=phrase(rng, asked[0]), b=phrase(rng, asked[1]))
    return rng.choice(FRAMES).format(words)


def arrange(rng: random.Random, asked: tuple[Asked, ...], relation: str | None) -> list[tuple[float, float, float]]:
    """Where objects as asked stand: (x, y, radius) of each, pixels. One with no place said of it stands around the
    middle, and of two with no relation said the first stands on the left."""
    margin = 4.0
    if len(asked) == 1:
        radius = rng.uniform(*RADII[asked[0].size or rng.choice(["medium", "large"])])
        if asked[0].place is None:
            x, y = (SIZE / 2 + rng.uniform(-20, 20) for _ in range(2))
        else:
            middles = (THIRDS[0] / 2 + 10, SIZE / 2, SIZE - THIRDS[0] / 2 - 10)
            x, y = (middles[third] + rng.uniform(-5, 5) for third in PLACES[asked[0].place])
        least, most = radius + margin, SIZE - radius - margin
        return [(min(max(x, least), most), min(max(y, least), most), radius)]
    radii = [
        rng.uniform(18, 22) if one.size is None else min(PAIR_LARGE, rng.uniform(*RADII[one.size])) for one in asked
    ]
    if relation is None or relation == "beside":
        relation = "left"
    before, after = radii if relation in ("left", "above") else radii[::-1]
    # Along the axis of the relation: margin, object, gap, object, margin; what is free is shared out at random.
    gap = 8.0
    free = SIZE - 2 * margin - gap - 2 * (before + after)
    shares = [rng.uniform(0.8, 1.0) for _ in range(3)]
    start = margin + free * shares[0] / sum(shares)
    along = [start + before, start + 2 * before + gap + free * shares[1] / sum(shares) + after]
    if relation in ("right", "below"):
        along.reverse()
    across = [SIZE / 2 + rng.uniform(-5, 5) for _ in range(2)]
    if relation in ("left", "right"):
        return list(zip(along, across, radii, strict=True))
    return list(zip(across, along, radii, strict=True))


def draw(rng: random.Random, asked: tuple[Asked, ...], relation: str | None) -> Image.Image:
    """A SIZE x SIZE RGB picture of what is asked, on white."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    for one, (x, y, radius) in zip(asked, arrange(rng, asked, relation), strict=True):
        red, green, blue = (min(255, max(0, value + rng.randint(-4, 4))) for value in COLOURS[one.colour])
        paint(image, one.shape, (red, green, blue), x, y, radius)
    return image


def sample(rng: random.Random, *, of_held_out: bool = False) -> Scene:
    """A scene with its prompt and truth: one that training may see, or one of those that it never does."""
    while True:
        asked, relation = ask(rng)
        if held_out(asked, relation) == of_held_out:
            return Scene(draw(rng, asked, relation), write(rng, asked, relation), asked, relation)


def blobs(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected components of a boolean (height, width) mask: (pixels, 2) rows and columns each."""
    height, width = mask.shape
    parent = np.arange(height * width)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    # Runs of a row are one node; runs that touch in the next row are joined.
    above: list[tuple[int, int, int]] = []
    runs: list[tuple[int, int, int, int]] = []
    for row in range(height):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[row].astype(np.int8), [0]))))
        here = []
        for begin, end in edges.reshape(-1, 2).tolist():
            node = row * width + begin
            for other_begin, other_end, other in above:
                if other_begin < end and begin < other_end:
                    parent[root(other)] = root(node)
            here.append((begin, end, node))
            runs.append((row, begin, end, node))
        above = here
    found: dict[int, list[np.ndarray]] = {}
    for row, begin, end, node in runs:
        columns = np.arange(begin, end)
        found.setdefault(root(node), []).append(np.stack([np.full_like(columns, row), columns], axis=1))
    return [np.concatenate(parts) for parts in found.values()]


@lru_cache
def template(shape: str) -> np.ndarray:
    """A shape stretched to a 48 x 48 boolean box."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    paint(image, shape, (0, 0, 0), SIZE / 2, SIZE / 2, 48)
    return fitted(np.asarray(image.convert("L")) < 128)


def fitted(mask: np.ndarray) -> np.ndarray:
    """The box around a boolean mask's true pixels, stretched to 48 x 48."""
    rows, columns = np.where(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.asarray(Image.fromarray(box.astype(np.uint8) * 255).resize((48, 48), Image.Resampling.BILINEAR)) >= 128


def recognise(image: Image.Image | np.ndarray) -> list[Seen]:
    """The objects on a light background, from left to right.

    An object is a connected group of at least 60 pixels that differ from white; its colour is the nearest of
    COLOURS to its median pixel, its shape the one whose drawing, fitted to the object's box, has the greatest
    intersection over union. Pictures of other sizes are scaled to SIZE first.
    """
    opened = (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
    if opened.size != (SIZE, SIZE):
        opened = opened.resize((SIZE, SIZE))
    pixels = np.asarray(opened, dtype=np.float32)
    found = []
    for group in blobs(np.abs(pixels - 255).max(axis=-1) > 60):
        if len(group) < 60:
            continue
        rows, columns = group.T
        median = np.median(pixels[rows, columns], axis=0)
        colour = min(COLOURS, key=lambda name: float(np.linalg.norm(median - np.array(COLOURS[name]))))
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[rows, columns] = True
        box = fitted(mask)
        shape = max(SHAPES, key=lambda name: (box & template(name)).sum() / (box | template(name)).sum())
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        side = float(max(bottom - top, right - left))
        size = "small" if side < SIDE_BOUNDS[0] else "medium" if side < SIDE_BOUNDS[1] else "large"
        found.append(Seen(shape, colour, size, float(left + right) / 2, float(top + bottom) / 2, side))
    return sorted(found, key=lambda seen: seen.x)


def judge(asked: tuple[Asked, ...], relation: str | None, seen: list[Seen]) -> Verdict:
    """Hold what a picture shows against what was asked. Where the objects are wrong, so are sizes and places."""
    places_said = relation is not None or any(one.place for one in asked)
    sizes_said = any(one.size for one in asked)
    found = {(one.shape, one.colour): one for one in seen}
    wanted = [(one.shape, one.colour) for one in asked]
    if len(seen) != len(asked) or set(found) != set(wanted):
        return Verdict(False, False if sizes_said else None, False if places_said else None)
    matched = [found[key] for key in wanted]
    sizes = all(one.size in (None, other.size) for one, other in zip(asked, matched, strict=True))

    def third(value: float) -> int:
        return sum(value >= bound for bound in THIRDS)

    placed = all(
        one.place is None or PLACES[one.place] == (third(other.x), third(other.y))
        for one, other in zip(asked, matched, strict=True)
    )
    if relation is not None:
        across, down = matched[1].x - matched[0].x, matched[1].y - matched[0].y
        holds = {"left": across > 0, "right": across < 0, "above": down > 0, "below": down < 0, "beside": True}
        along, other = (down, across) if relation in ("above", "below") else (across, down)
        placed = placed and holds[relation] and abs(along) > abs(other)
    return Verdict(True, sizes if sizes_said else None, placed if places_said else None)


def evaluation_scenes(count: int, seed: int = 2026) -> list[Scene]:
    """Scenes that training never sees; every tenth is one object with nothing said of it."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        bare = len(scenes) % 10 == 9
        scene = sample(rng, of_held_out=not bare)
        one = scene.asked[0]
        if not bare or (len(scene.asked) == 1 and one.size is None and one.place is None):
            scenes.append(scene)
    return scenes


def share(answers: Iterable[bool | None]) -> float:
    """The share of true among those that are not None."""
    given = [answer for answer in answers if answer is not None]
    return sum(given) / max(1, len(given))


def verdicts(draw: Callable[[str, int], np.ndarray], scenes: list[Scene]) -> list[Verdict]:
    """Judge a picture of each scene's prompt; draw(prompt, seed) gives (height, width, 3) uint8 RGB."""
    return [judge(s.asked, s.relation, recognise(draw(s.prompt, number))) for number, s in enumerate(scenes)]


def prompt_accuracy(draw: Callable[[str, int], np.ndarray], prompts: int) -> float:
    """The share of pictures with exactly the objects that their prompts ask, each in its shape and colour.

    draw(prompt, seed) gives (height, width, 3) uint8 RGB; prompts is how many of `evaluation_scenes` to draw.
    """
    return share(verdict.objects for verdict in verdicts(draw, evaluation_scenes(prompts)))
