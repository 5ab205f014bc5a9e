"""Seeds of 64 bits for engines that take 32."""

from __future__ import annotations

import zlib

MOST_SEED = 2**63 - 1


def folded(seed: int) -> int:
    """A seed in 32 bits: itself where it fits, else its checksum, since engines would drop the upper bits."""
    return seed if seed < 2**32 else zlib.crc32(seed.to_bytes(8, "big"))
