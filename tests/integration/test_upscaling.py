"""UpscaleImage and GenerateImage's option: twice the size, bad files named, nothing decoded that is too large."""

from __future__ import annotations

import io

import numpy as np
import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument, NotFound
from PIL import Image, ImageDraw

from tests.conftest import Running
from tests.metrics import scrape
from tests.waiting import until


def picture(width: int, height: int, mode: str = "RGB", form: str = "PNG") -> bytes:
    """A disc on a gradient."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), fill=(220, 30, 30))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (37, 61), (1, 1), (300, 270)])
def test_any_size_is_doubled_and_stays_the_same_picture(client: Client, width: int, height: int) -> None:
    data = picture(width, height)
    answer = client.diffusion.UpscaleImage({"image": data})
    assert (answer.image.width, answer.image.height) == (2 * width, 2 * height)
    larger = pixels(answer.image.data)
    assert larger.shape == (2 * height, 2 * width, 3)
    # Each 2 x 2 block averages to about the pixel that it came from.
    blocks = larger.reshape(height, 2, width, 2, 3).mean((1, 3))
    assert np.abs(blocks - pixels(data)).mean() < 4
    assert answer.model_revision.startswith("upscaler@")
    assert [stage.stage for stage in answer.timings.stages] == ["read", "upscale", "write"]


def test_tiles_join_unseen(client: Client) -> None:
    """A picture larger than a tile, against a part of it that fits into one."""
    data = picture(400, 300)
    whole = pixels(client.diffusion.UpscaleImage({"image": data}).image.data)
    left, top, right, bottom = 200, 200, 300, 290  # over the seams at 256
    part = Image.open(io.BytesIO(data)).crop((left, top, right, bottom))
    file = io.BytesIO()
    part.save(file, "PNG")
    alone = pixels(client.diffusion.UpscaleImage({"image": file.getvalue()}).image.data)
    inner = slice(60, -60)  # away from the part's own border
    joined = whole[2 * top : 2 * bottom, 2 * left : 2 * right]
    # In float32 another shape rounds to the next level at most.
    assert np.abs(joined[inner, inner] - alone[inner, inner]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP"), ("P", "PNG"), ("RGBA", "PNG")]
)
def test_files_of_several_kinds(client: Client, mode: str, form: str) -> None:
    answer = client.diffusion.UpscaleImage({"image": picture(24, 16, mode, form)})
    assert (answer.image.width, answer.image.height, answer.image.mime_type) == (48, 32, "image/png")


def test_transparency_is_laid_on_white(client: Client) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(file, "PNG")
    answer = client.diffusion.UpscaleImage({"image": file.getvalue()})
    assert pixels(answer.image.data).min() > 250


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "INVALID_FIELD"),
        (b"no image at all", "IMAGE_UNREADABLE"),
        (picture(40, 40)[:200], "IMAGE_UNREADABLE"),
        (picture(20, 20, form="GIF", mode="P"), "IMAGE_UNREADABLE"),
    ],
)
def test_bad_files_name_the_field(client: Client, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.diffusion.UpscaleImage({"image": data})
    assert failure.value.reason == reason
    assert failure.value.field_violations[0].field == "image"


@pytest.mark.parametrize(
    ("side", "said"), [(2000, "has 2000 x 2000 pixels; at most 1048576"), (20_000, "far more than the 1048576")]
)
def test_too_many_pixels_are_refused_by_the_header(client: Client, side: int, said: str) -> None:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    with pytest.raises(InvalidArgument) as failure:
        client.diffusion.UpscaleImage({"image": file.getvalue()})
    assert said in failure.value.field_violations[0].description


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as failure:
        client.diffusion.UpscaleImage({"image": picture(8, 8), "model": "embedder"})
    assert failure.value.reason == "MODEL_NOT_FOUND"


def test_an_image_is_drawn_and_doubled_in_one_call(client: Client, running: Running) -> None:
    port = running.cluster.ports["metrics_diffusion"]
    before = scrape(port)["genmesh_diffusion_upscaled_images_total", 'model="upscaler"']
    small = client.diffusion.GenerateImage({"prompt": "a red circle", "steps": 4, "seed": 3})
    large = client.diffusion.GenerateImage({"prompt": "a red circle", "steps": 4, "seed": 3, "upscale": True})
    assert (large.image.width, large.image.height) == (2 * small.image.width, 2 * small.image.height)
    assert large.image.seed == 3
    assert [stage.stage for stage in large.timings.stages] == ["draw", "upscale"]
    again = client.diffusion.UpscaleImage({"image": small.image.data})
    assert again.image.data == large.image.data
    until(lambda: scrape(port)["genmesh_diffusion_upscaled_images_total", 'model="upscaler"'] == before + 2)


def test_a_picture_too_large_for_the_upscaler_is_refused_before_it_is_drawn(client: Client) -> None:
    # The diffuser's own limit is as large; a request for more is refused by it.
    with pytest.raises(InvalidArgument) as failure:
        client.diffusion.GenerateImage({"prompt": "x", "width": 2048, "height": 1024, "upscale": True})
    assert failure.value.reason == "INVALID_FIELD"
