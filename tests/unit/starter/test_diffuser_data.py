"""The diffuser's scenes, and the measure that reads them back from pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest
from genmesh_models.sources import recipe
from PIL import Image

data = recipe("starter/diffuser", "data")


def test_what_was_drawn_is_recognised() -> None:
    rng = random.Random(11)
    scenes = [data.sample(rng, of_held_out=bool(i % 2)) for i in range(300)]
    found = [data.judge(s.asked, s.relation, data.recognise(s.image)) for s in scenes]
    for key in ("objects", "sizes", "place"):
        assert data.share(getattr(verdict, key) for verdict in found) >= 0.99, key


def test_a_picture_with_noise_and_another_size_is_recognised() -> None:
    noise, rng = np.random.default_rng(5), random.Random(12)
    for _ in range(50):
        scene = data.sample(rng)
        pixels = np.asarray(scene.image.resize((192, 192)), dtype=np.float32) + noise.normal(0, 12, (192, 192, 3))
        seen = data.recognise(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        assert sorted((s.shape, s.colour) for s in seen) == sorted((a.shape, a.colour) for a in scene.asked)


@pytest.mark.parametrize("shape", data.SHAPES)
@pytest.mark.parametrize("colour", data.COLOURS)
@pytest.mark.parametrize("size", data.RADII)
def test_each_object_is_told_from_the_others(shape: str, colour: str, size: str) -> None:
    image = Image.new("RGB", (data.SIZE, data.SIZE), "white")
    data.paint(image, shape, data.COLOURS[colour], 50.3, 70.7, sum(data.RADII[size]) / 2)
    (seen,) = data.recognise(image)
    assert (seen.shape, seen.colour, seen.size) == (shape, colour, size)
    assert (seen.x, seen.y) == (pytest.approx(50.3, abs=1), pytest.approx(70.7, abs=1))


def test_an_empty_picture_holds_nothing() -> None:
    assert data.recognise(np.full((128, 128, 3), 255, np.uint8)) == []


def red(shape: str, x: float, y: float, size: str = "small") -> object:
    return data.Seen(shape, "red", size, x, y, 30.0)


def test_a_verdict_holds_what_is_seen_against_what_was_asked() -> None:
    circle, square = data.Asked("circle", "red", size="small"), data.Asked("square", "red")
    there = [red("circle", 30, 60), red("square", 90, 66)]
    assert data.judge((circle, square), "left", there) == data.Verdict(True, True, True)
    assert data.judge((circle, square), "right", there) == data.Verdict(True, True, False)
    assert data.judge((circle, square), "above", there) == data.Verdict(True, True, False)
    assert data.judge((circle, square), "beside", there) == data.Verdict(True, True, True)
    assert data.judge((circle, square), None, there) == data.Verdict(True, True, None)
    assert data.judge((square, circle), "right", there) == data.Verdict(True, True, True)
    assert data.judge((circle, square), "left", there[:1]) == data.Verdict(False, False, False)
    assert data.judge((square,), None, [red("square", 9, 9)]) == data.Verdict(True, None, None)
    assert data.judge((square,), None, there) == data.Verdict(False, None, None)


@pytest.mark.parametrize(
    ("place", "x", "y"), [("top left", 30, 30), ("top", 64, 30), ("centre", 64, 64), ("bottom right", 90, 100)]
)
def test_places_are_thirds_of_the_picture(place: str, x: float, y: float) -> None:
    for name in data.PLACES:
        asked = data.Asked("star", "red", place=name)
        assert data.judge((asked,), None, [red("star", x, y)]).place == (name == place)


def test_training_never_sees_what_is_held_out() -> None:
    rng = random.Random(13)
    assert not any(data.held_out(s.asked, s.relation) for s in (data.sample(rng) for _ in range(300)))
    scenes = data.evaluation_scenes(200)
    held = [data.held_out(s.asked, s.relation) for s in scenes]
    bare = [len(s.asked) == 1 and s.asked[0].size is None and s.asked[0].place is None for s in scenes]
    assert all(a != b for a, b in zip(held, bare, strict=True))
    assert [s.prompt for s in scenes] == [s.prompt for s in data.evaluation_scenes(200)]


def test_accuracy_counts_the_pictures_that_are_right() -> None:
    by_prompt = {s.prompt: np.asarray(s.image) for s in data.evaluation_scenes(20)}
    assert data.prompt_accuracy(lambda prompt, seed: by_prompt[prompt], 20) == 1.0
    white = np.full((128, 128, 3), 255, np.uint8)
    assert data.prompt_accuracy(lambda prompt, seed: by_prompt[prompt] if seed % 2 else white, 20) == 0.5
