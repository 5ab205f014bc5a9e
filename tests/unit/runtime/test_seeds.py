"""Seeds of 64 bits in 32."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.seeds import MOST_SEED, folded


@given(st.integers(0, MOST_SEED))
def test_a_seed_has_32_bits_and_a_small_one_stays(seed: int) -> None:
    assert 0 <= folded(seed) < 2**32
    assert seed >= 2**32 or folded(seed) == seed


def test_the_upper_bits_count() -> None:
    seeds = [low + (high << 32) for low in (0, 1, 42, 2**32 - 1) for high in (0, 1, 2, 2**16, 2**31 - 1)]
    assert len({folded(seed) for seed in seeds}) == len(seeds)
