"""The noise that a seed stands for: that of the cpu profile, so that a seed draws the same picture in both.

OpenVINO GenAI's ``CppStdGenerator`` is C++'s ``mt19937`` with ``normal_distribution<float>`` as
libstdc++ has it: the polar method (Marsaglia & Bray 1964) on 24-bit uniform numbers.
"""

from __future__ import annotations

import numpy as np


def normal(seed: int, count: int) -> np.ndarray:
    """``count`` standard normal numbers, float32; ``seed`` is 0 to 2^32 - 1."""
    source = np.random.RandomState(seed)  # numpy seeds its Mersenne Twister as C++ does
    below_one = np.nextafter(np.float32(1), np.float32(0))
    found: list[np.ndarray] = []
    missing = count
    while missing > 0:
        bits = source.randint(0, 2**32, 2 * missing, dtype=np.uint32)
        uniform = np.minimum(bits.astype(np.float32) / np.float32(2**32), below_one)
        x, y = 2 * uniform[::2] - 1, 2 * uniform[1::2] - 1
        square = x * x + y * y
        inside = (square <= 1) & (square > 0)
        x, y, square = x[inside], y[inside], square[inside]
        scale = np.sqrt(-2 * np.log(square) / square)
        found.append(np.stack([y * scale, x * scale], 1).reshape(-1))
        missing -= len(found[-1])
    return np.concatenate(found)[:count] if found else np.empty(0, np.float32)
