"""How near an image is to the truth. Images are (H, W, 3) uint8 RGB, of the same size."""

from __future__ import annotations

import math

import numpy as np


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over R, G and B: 10 log10(255² / mean squared error); 99 where equal."""
    error = float(((image.astype(np.float64) - truth) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else 99.0


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W) brightness, 0 to 255 (ITU-R BT.601)."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _filtered(field: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation of (H, W) with a small kernel, without the edges."""
    height, width = field.shape[0] - kernel.shape[0] + 1, field.shape[1] - kernel.shape[1] + 1
    found = np.zeros((height, width), field.dtype)
    for (i, j), weight in np.ndenumerate(kernel):
        if weight:
            found += field.dtype.type(weight) * field[i : i + height, j : j + width]
    return found


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity, at most 1, of the luma with a Gaussian window of 11 x 11, sigma 1.5 (Wang et al. 2004)."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    line /= line.sum()

    def blurred(field: np.ndarray) -> np.ndarray:
        return _filtered(_filtered(field, line[:, None]), line[None])

    x, y = luma(image).astype(np.float64), luma(truth).astype(np.float64)
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y, both = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2, blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(similar.mean())


def sharpness(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean length of the luma's gradient (differences of neighbours) over the truth's; 1 is as sharp, less is blurred."""

    def steepness(field: np.ndarray) -> float:
        return float(np.hypot(np.diff(field, axis=0)[:, :-1], np.diff(field, axis=1)[:-1]).mean())

    return steepness(luma(image)) / max(steepness(luma(truth)), 1e-6)


def gmsd(image: np.ndarray, truth: np.ndarray) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014): 0 where equal, 0.35 where very bad."""
    prewitt = np.array([[1, 0, -1]] * 3, np.float32) / 3

    def magnitude(field: np.ndarray) -> np.ndarray:
        half = field[: field.shape[0] // 2 * 2, : field.shape[1] // 2 * 2]
        half = (half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) / 4
        return np.hypot(_filtered(half, prewitt), _filtered(half, prewitt.T))

    a, b = magnitude(luma(image)), magnitude(luma(truth))
    return float(((2 * a * b + 170) / (a**2 + b**2 + 170)).std())


def _gabor_bank(count: int = 4, size: int = 7) -> list[np.ndarray]:
    """Even and odd Gabor filters of ``count`` directions, wave length 4 pixels, without a mean (Daugman 1985)."""
    y, x = np.mgrid[:size, :size] - size // 2
    window, bank = np.exp(-(x**2 + y**2) / (2 * 1.5**2)), []
    for i in range(count):
        along = x * math.cos(math.pi * i / count) + y * math.sin(math.pi * i / count)
        for wave in (np.cos(math.pi / 2 * along), np.sin(math.pi / 2 * along)):
            kernel = window * wave
            kernel -= window * (kernel.sum() / window.sum())
            bank.append((kernel / np.abs(kernel).sum()).astype(np.float32))
    return bank


BANK = _gabor_bank()


def perceptual(image: np.ndarray, truth: np.ndarray, scales: int = 3) -> float:
    """Distance of normalized features, 0 where equal, at most 2: LPIPS (Zhang et al. 2018, eq. 1) with Gabor features.

    LPIPS takes features from a trained network; these are fixed filters instead: 8 Gabor responses of
    luma and two colour differences, at ``scales`` sizes. At each place the 24 responses f become
    f / sqrt(|f|² + 4²) (4 of 255 levels: below that, noise), and the squared differences are summed.
    """
    total = 0.0
    both = [
        [luma(x), x[..., 0].astype(np.float32) - x[..., 1], x[..., 2].astype(np.float32) - x[..., 1]]
        for x in (image, truth)
    ]
    for _ in range(scales):
        features = []
        for channels in both:
            found = np.stack([_filtered(channel, kernel) for channel in channels for kernel in BANK])
            features.append(found / np.sqrt((found**2).sum(0) + 4**2))
        total += float(((features[0] - features[1]) ** 2).sum(0).mean())
        both = [
            [
                (c[0 : h * 2 : 2, 0 : w * 2 : 2] + c[1 : h * 2 : 2, 0 : w * 2 : 2] + c[0 : h * 2 : 2, 1 : w * 2 : 2]
                 + c[1 : h * 2 : 2, 1 : w * 2 : 2]) / 4
                for c in channels for h, w in [(c.shape[0] // 2, c.shape[1] // 2)]
            ]
            for channels in both
        ]  # fmt: skip
    return total / scales
