"""Picture files of every kind as pixels, and orders whose fields the model cannot follow."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from genmesh.v1 import diffusion_pb2 as pb
from PIL import Image

from services.diffusion.images import from_file, order
from services.runtime.errors import InvalidArgument
from services.runtime.models import Card

ANY: Any = SimpleNamespace(facts={"max_pixels": 10_000})
SIDE = 32
GRADIENT = np.linspace(0, 65_535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)


def file_of(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def png(levels: np.ndarray, kind: int, bits: int = 16, key: tuple[int, ...] = ()) -> bytes:
    """A PNG with any number of bits a channel; Pillow writes few of them. ``kind``: of colour, as the format has it;
    ``key``: the levels that are transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = levels.shape[:2]
    each = levels.reshape(height, -1, 1)
    rows = np.packbits(each >> np.arange(bits)[::-1] & 1, axis=None).reshape(height, -1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


def test_channels_of_16_bits_keep_their_upper_half() -> None:
    wanted = GRADIENT // 257
    colours = np.repeat(GRADIENT[:, :, None], 3, 2)
    opaque = np.dstack([colours, np.full_like(GRADIENT, 65_535)])
    files = {
        "grey": file_of(Image.fromarray(GRADIENT)),
        "grey, by hand": png(GRADIENT, 0),
        "colours": png(colours, 2),
        "grey and alpha": png(opaque[:, :, 2:], 4),
        "colours and alpha": png(opaque, 6),
    }
    for name, data in files.items():
        pixels = from_file(data, ANY).astype(int)
        assert pixels.shape == (SIDE, SIDE, 3), name
        assert np.abs(pixels - wanted[:, :, None]).max() <= 1, name


@pytest.mark.parametrize(
    ("mode", "form"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"),
     ("RGB", "WEBP"), ("RGBA", "WEBP")],
)  # fmt: skip
def test_every_mode_shows_the_same_picture(mode: str, form: str) -> None:
    half = Image.new("RGB", (SIDE, SIDE), "white")
    half.paste((0, 0, 0), (0, 0, SIDE // 2, SIDE))
    image = half.convert(mode)
    if mode == "I":
        image = Image.fromarray(np.asarray(half.convert("L")).astype(np.uint16) * 257)
    pixels = from_file(file_of(image, form), ANY)
    assert pixels[:, : SIDE // 2 - 2].max() < 30
    assert pixels[:, SIDE // 2 + 2 :].min() > 225


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    more = {"transparency": 0} if mode == "P" else {}
    assert from_file(file_of(image, **more), ANY).min() == 255


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(bits: int) -> None:
    most = 2**bits - 1
    steps = sorted({0, most // 4, most // 2, most})
    levels = np.tile(np.repeat(steps, 8), (8, 1))
    for key in steps:
        pixels = from_file(png(levels, 0, bits, (key,)), ANY).astype(int)
        wanted = np.where(levels == key, 255, levels * 255 // most)
        assert np.abs(pixels - wanted[:, :, None]).max() <= 1, key


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits: int) -> None:
    levels = np.full((8, 8, 3), 10)
    levels[:, :4] = key = (10, 20, 30)
    levels[0, 0] = 10, 20, 31
    levels = levels << (bits - 8) | (np.array([0, 0, 1]) if bits == 16 else 0)
    levels[1, 0, 2] ^= 2 if bits == 16 else 3  # within the same upper byte
    transparent = tuple(int(v) for v in levels[2, 0])
    pixels = from_file(png(levels, 2, bits, transparent), ANY).astype(int)
    wanted = levels >> (bits - 8)
    wanted[(levels == transparent).all(2)] = 255
    assert np.array_equal(pixels, wanted)
    assert [wanted[0, 0, 2], wanted[2, 0, 2], wanted[1, 0, 0]] == [31, 255, key[0]]


def test_a_transparent_colour_of_a_picture_that_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(turned) - 4) + turned + struct.pack(">I", zlib.crc32(turned))
    grey = np.tile(np.repeat([20_000, 40_000], [4, 8]), (8, 1))
    for levels, kind, key in ((grey, 0, (20_000,)), (np.repeat(grey[:, :, None], 3, 2), 2, (20_000,) * 3)):
        data = png(levels, kind, 16, key)
        pixels = from_file(data[:33] + chunk + data[33:], ANY)
        assert pixels.shape == (12, 8, 3)
        assert (pixels[:4].min(), pixels[4:].max()) == (255, 40_000 // 256 - (kind == 0))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_was_cut_is_refused(form: str) -> None:
    data = file_of(Image.fromarray((GRADIENT // 256).astype(np.uint8)).convert("RGB"), form)
    assert from_file(data, ANY).shape == (SIDE, SIDE, 3)
    assert from_file(data + b"more", ANY).shape == (SIDE, SIDE, 3)
    for cut in range(1, 40):
        with pytest.raises(InvalidArgument) as failure:
            from_file(data[:-cut], ANY)
        assert failure.value.reason == "IMAGE_UNREADABLE", cut


def test_a_picture_stands_as_the_camera_was_held() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for form in ("JPEG", "PNG", "WEBP"):
        pixels = from_file(file_of(image, form, exif=exif), ANY)
        assert pixels.shape == (20, 10, 3)
        assert pixels[2, 5, 1] < 60
        assert pixels[17, 5, 1] > 200


def diffuser(make_card: Callable[..., Card], **config: Any) -> Card:
    facts = {
        "default_width": 64,
        "default_height": 64,
        "default_steps": 4,
        "default_guidance_scale": 2.0,
        "max_pixels": 10_000,
    }
    return make_card("diffuser", task="diffuse", tokenizer=False, **facts, **config)


def test_a_negative_prompt_has_no_effect_without_guidance(make_card: Callable[..., Card]) -> None:
    card = diffuser(make_card)
    for guidance, kept in ((0, ""), (0.5, ""), (1, ""), (1.01, "blue"), (None, "blue")):
        request = pb.GenerateImageRequest(prompt="x", negative_prompt="blue")
        if guidance is not None:
            request.guidance_scale = guidance
        assert order(request, card).negative_prompt == kept


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"width": 1024}, ["width"]),
        ({"height": 1024}, ["height"]),
        ({"width": 104, "height": 104}, ["width", "height"]),
    ],
)
def test_too_many_pixels_name_the_fields_that_were_set(
    make_card: Callable[..., Card], asked: dict[str, int], named: list[str]
) -> None:
    with pytest.raises(InvalidArgument) as failure:
        order(pb.GenerateImageRequest(prompt="x", **asked), diffuser(make_card))
    assert [v.field for v in failure.value.violations] == named


def test_a_seed_is_returned_as_it_was_given(make_card: Callable[..., Card]) -> None:
    card = diffuser(make_card)
    for seed in (0, 2**32, 2**63 - 1):
        assert order(pb.GenerateImageRequest(prompt="x", seed=seed), card).seed == seed
    with pytest.raises(InvalidArgument) as failure:
        order(pb.GenerateImageRequest(prompt="x", seed=-1), card)
    assert [v.field for v in failure.value.violations] == ["seed"]


def test_what_the_text_encoder_does_not_read_is_told(make_card: Callable[..., Card]) -> None:
    card = diffuser(make_card)
    long, short = "a b a b a b", "A  b"  # a word is a token, and each end one
    request = pb.GenerateImageRequest(prompt=long, negative_prompt=long)
    assert order(request, card).truncated == ()  # nothing is known of its tokenizer
    folder = next(card._folder.glob("*/weights")) / "tokenizer"
    folder.mkdir()
    vocabulary = {"a</w>": 0, "b</w>": 1, "a": 2, "b": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 7}))
    card = Card(card._folder)
    ((tokenizer, window),) = card.text_encoders
    assert (tokenizer.encode("A  b ☃").ids, window) == ([4, 0, 1, 5, 5, 5, 5], 7)
    assert order(request, card).truncated == ("prompt", "negative_prompt")
    assert order(pb.GenerateImageRequest(prompt=short, negative_prompt=long), card).truncated == ("negative_prompt",)
    assert order(pb.GenerateImageRequest(prompt="a b a b a"), card).truncated == ()
