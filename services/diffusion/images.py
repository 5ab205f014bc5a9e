"""Images from Triton's ``diffuser``, step by step."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from genmesh.v1 import diffusion_pb2 as pb
from PIL import Image, ImageOps

from services.runtime.errors import invalid
from services.runtime.metrics import Diffusion
from services.runtime.models import Card
from services.runtime.seeds import MOST_SEED, folded
from services.runtime.triton import Triton, scalar
from services.runtime.validation import Fields

FORMATS = ("PNG", "JPEG", "WEBP")
# What ends a PNG. Pillow reads one that was cut once its pixels are there.
PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
# Grey levels of few bits, as Pillow names them, and what it multiplies them by.
GREY_STEPS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class Order:
    """What to draw, with every default filled in."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    preview_every_steps: int
    upscale: bool
    truncated: tuple[str, ...]  # fields of which the model does not read all


def order(request: pb.GenerateImageRequest, card: Card) -> Order:
    """The checked request; INVALID_ARGUMENT names the fields that are out of range."""
    fields, facts = Fields(), card.facts
    fields.text("prompt", request.prompt, most=2000)
    fields.text("negative_prompt", request.negative_prompt, least=0, most=2000, blank=True)
    width, height = request.width or facts["default_width"], request.height or facts["default_height"]
    for name, side in (("width", width), ("height", height)):
        if side < 8 or side % 8:
            fields.fault(name, f"is {side}; a positive multiple of 8 is allowed")
    if width > 0 and height > 0 and width * height > facts["max_pixels"]:
        sides = ("width", "height")
        for name in [side for side in sides if getattr(request, side)] or sides:
            fields.fault(name, f"makes {width} x {height} pixels; at most {facts['max_pixels']} in all are allowed")
    steps = fields.defaulted("steps", request.steps, facts["default_steps"], 200)
    guidance = request.guidance_scale if request.HasField("guidance_scale") else facts["default_guidance_scale"]
    fields.number("guidance_scale", guidance, 0, 30)
    seed = request.seed if request.HasField("seed") else secrets.randbelow(2**31)
    fields.number("seed", seed, 0, MOST_SEED)
    fields.number("preview_every_steps", request.preview_every_steps, 0, 200)
    fields.done()
    # Without guidance there is nothing to steer away from.
    negative = request.negative_prompt if guidance > 1 else ""
    texts = {"prompt": request.prompt, "negative_prompt": negative}
    return Order(
        request.prompt,
        negative,
        width,
        height,
        steps,
        guidance,
        seed,
        request.preview_every_steps,
        request.upscale,
        tuple(name for name, text in texts.items() if overlong(text, card)),
    )


def overlong(text: str, card: Card) -> bool:
    """Whether a text has more tokens than one of the model's text encoders reads, or characters that its vocabulary lacks
    (in CLIP's tokenizers those are end tokens)."""
    encoded = ((tokenizer.encode(text).ids, window) for tokenizer, window in card.text_encoders)
    return any(len(ids) > window or ids[:-1].count(ids[-1]) for ids, window in encoded)


@dataclass(frozen=True)
class Progress:
    """A step that is done, or the image; pictures are height x width x 3 uint8."""

    step: int
    pixels: np.ndarray | None
    final: bool


def from_file(data: bytes, card: Card) -> np.ndarray:
    """The pixels of an image file, height x width x 3 uint8; INVALID_ARGUMENT where it cannot be read or is too large."""
    fields = Fields()
    if not data:
        fields.fault("image", "is empty; a PNG, JPEG or WebP file is required")
    fields.done()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size  # of the header; nothing is decoded yet
            if width * height > card.facts["max_pixels"]:
                most = card.facts["max_pixels"]
                raise invalid("image", f"has {width} x {height} pixels; at most {most} in all are allowed")
            if image.format == "PNG" and PNG_END not in data:
                raise OSError("cut")
            kind = image.tile[0].args if image.tile else ""
            image.load()
            keyed(image, kind, data)
            # As the camera was held.
            upright = eight_bits(ImageOps.exif_transpose(image))
            if upright.has_transparency_data:
                laid = Image.new("RGBA", upright.size, "white")
                laid.alpha_composite(upright.convert("RGBA"))
                upright = laid
            return np.asarray(upright.convert("RGB"))
    except Image.DecompressionBombError:
        raise invalid("image", f"has far more than the {card.facts['max_pixels']} pixels that are allowed") from None
    except (OSError, ValueError, SyntaxError):
        raise invalid("image", "is not a whole PNG, JPEG or WebP file", reason="IMAGE_UNREADABLE") from None


def keyed(image: Image.Image, kind: object, data: bytes) -> None:
    """Make a PNG's transparent colour one of the levels that Pillow gave the pixels. ``kind``: how the file has those."""
    key = image.info.get("transparency")
    if isinstance(key, int) and kind in GREY_STEPS:
        image.info["transparency"] = min(key * GREY_STEPS[str(kind)], 255)
    elif key is not None and kind == "RGB;16B":
        # Pillow gives the upper bytes, and the lower ones where it takes the bytes for swapped.
        with Image.open(io.BytesIO(data), formats=["PNG"]) as lower:
            lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
            levels = np.asarray(image).astype(np.uint16) * 256 + np.asarray(lower)
        image.putalpha(Image.fromarray(np.where((levels == key).all(2), 0, 255).astype(np.uint8)))
        del image.info["transparency"]


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture whose channels have 16 bits with the upper eight of them: Pillow would cut off what is above 255."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((np.clip(levels, 0, 65_535) // 257).astype(np.uint8), "L")
    if (key := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return grey


def to_png(pixels: np.ndarray, seed: int) -> pb.Image:
    """A height x width x 3 uint8 array as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pb.Image(
        data=file.getvalue(), mime_type="image/png", width=pixels.shape[1], height=pixels.shape[0], seed=seed
    )


class Painter:
    def __init__(self, triton: Triton, metrics: Diffusion) -> None:
        self.triton, self.metrics = triton, metrics

    async def upscale(self, card: Card, pixels: np.ndarray, timeout: float | None) -> np.ndarray:
        """Twice the width and height, uint8."""
        answer = await self.triton.infer(card, {"image": np.ascontiguousarray(pixels)}, timeout, "generate_content")
        self.metrics.upscaled.labels(card.name).inc()
        larger: np.ndarray = answer.as_numpy("image")
        return larger

    async def draw(self, card: Card, wanted: Order) -> AsyncGenerator[Progress, None]:
        """Each step, then the image. Leaving early stops the model within one step."""
        tensors = {
            "prompt": scalar(wanted.prompt),
            "negative_prompt": scalar(wanted.negative_prompt),
            "width": scalar(wanted.width, np.int32),
            "height": scalar(wanted.height, np.int32),
            "steps": scalar(wanted.steps, np.int32),
            "guidance_scale": scalar(wanted.guidance_scale, np.float32),
            "seed": scalar(folded(wanted.seed), np.int64),
            "preview_every_steps": scalar(wanted.preview_every_steps, np.int32),
        }
        done, finished, last = 0, False, None
        try:
            async with aclosing(self.triton.stream(card, tensors, "generate_content")) as results:
                async for result in results:
                    pixels = result.as_numpy("image")
                    finished = bool(result.as_numpy("final")[0])
                    if not finished:
                        done = int(result.as_numpy("step")[0])
                        now = time.monotonic()
                        self.metrics.steps.labels(card.name).inc()
                        if last is not None:
                            self.metrics.step_duration.labels(card.name).observe(now - last)
                        last = now
                    yield Progress(done, pixels, finished)
            self.metrics.images.labels(card.name).inc()
        except (asyncio.CancelledError, GeneratorExit):
            if not finished:
                self.metrics.cancelled.labels(card.name).inc()
                self.metrics.saved_steps.labels(card.name).inc(wanted.steps - done)
            raise
