"""What the upscaler learns from and is measured by: pictures, the halving of them, and distances."""

from __future__ import annotations

import numpy as np
import pytest
from genmesh_models.sources import recipe
from PIL import Image

data, metrics = (recipe("starter/upscaler", name) for name in ("data", "metrics"))


@pytest.mark.parametrize("kind", [*data.KINDS, *data.HELD_OUT])
def test_a_kind_is_drawn_the_same_from_the_same_seed_only(kind: str) -> None:
    draw = data.HELD_OUT[kind] if kind in data.HELD_OUT else data.KINDS[kind][0]
    first, again, other = (
        data.finish(np.random.default_rng(seed), draw(np.random.default_rng(seed), 96), 48) for seed in (3, 3, 4)
    )
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_held_out_pictures_are_of_other_kinds_than_training_pictures() -> None:
    assert not set(data.KINDS) & set(data.HELD_OUT)
    assert {kind for _, kind in data.held_out(16, side=32)} == set(data.HELD_OUT)
    assert {kind for _, kind in data.familiar(8, side=32)} <= set(data.KINDS)


def test_kernels_keep_brightness() -> None:
    rng = np.random.default_rng(1)
    flat = np.full((12, 20, 3), 77, np.uint8)
    for _ in range(40):
        weights = data.kernel(rng)
        assert weights.sum() == pytest.approx(1)
        assert np.array_equal(data.halve(flat, weights), np.full((6, 10, 3), 77))


def test_halving_by_area_is_pillows_box() -> None:
    picture = data.held_out(1, side=64)[0][0]
    box = np.zeros(12)
    box[5:7] = 0.5
    ours, theirs = data.halve(picture, box), data.reduce(picture, Image.Resampling.BOX)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_batch_pairs_each_crop_with_its_half() -> None:
    small, large = data.Pool(5, size=2).batch(3, 64)
    assert small.shape == (3, 32, 32, 3)
    assert large.shape == (3, 64, 64, 3)
    for one, whole in zip(small, large, strict=True):
        assert metrics.psnr(one, data.reduce(whole)) > metrics.psnr(one, np.ascontiguousarray(data.reduce(whole)[::-1]))


def test_distances_order_images_as_they_were_spoiled() -> None:
    for truth, _ in data.held_out(8, side=96):
        once = data.bicubic(data.reduce(truth))
        twice = data.bicubic(data.bicubic(data.reduce(data.reduce(truth))))
        assert metrics.psnr(truth, truth) == 99
        assert metrics.ssim(truth, truth) == pytest.approx(1)
        assert metrics.sharpness(truth, truth) == pytest.approx(1)
        assert metrics.perceptual(truth, truth) == 0
        assert metrics.psnr(once, truth) > metrics.psnr(twice, truth)
        assert metrics.ssim(once, truth) > metrics.ssim(twice, truth)
        assert 1 > metrics.sharpness(once, truth) > metrics.sharpness(twice, truth)
        assert metrics.perceptual(once, truth) < metrics.perceptual(twice, truth)
        assert metrics.gmsd(once, truth) < metrics.gmsd(twice, truth)


def test_psnr_is_as_defined() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 16, np.uint8)
    assert metrics.psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 256))
