"""Sampling parameters as engines have them, within their ranges."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from genmesh.v1 import generation_pb2 as pb

from services.generation.text import DEFAULT_MAX_TOKENS, LEAST_TEMPERATURE, parameters
from services.runtime.errors import InvalidArgument
from services.runtime.models import Card


@pytest.fixture
def card(make_card: Callable[..., Card]) -> Card:
    return make_card(context_tokens=64)


def test_what_is_not_set_has_its_default_within_the_context(card: Card) -> None:
    assert parameters(pb.SamplingParameters(), card, 10) == {"temperature": 0.0, "max_tokens": 54}
    assert DEFAULT_MAX_TOKENS > 54
    assert parameters(pb.SamplingParameters(max_tokens=5), card, 10)["max_tokens"] == 5


@pytest.mark.parametrize("temperature", [0, 1e-38, 1e-6, LEAST_TEMPERATURE / 2])
def test_a_temperature_next_to_nothing_takes_the_likeliest(card: Card, temperature: float) -> None:
    found = parameters(pb.SamplingParameters(temperature=temperature, top_p=0.5), card, 10)
    assert found["temperature"] == 0
    assert "seed" not in found


def test_a_draw_has_a_seed(card: Card) -> None:
    assert parameters(pb.SamplingParameters(temperature=1e-3), card, 10)["seed"] >= 0
    assert parameters(pb.SamplingParameters(temperature=1, seed=7), card, 10)["seed"] == 7


def test_seeds_that_differ_in_their_upper_bits_differ(card: Card) -> None:
    seeds = [42, 42 + 2**32, 42 + 2**62, 2**63 - 1]
    found = {parameters(pb.SamplingParameters(temperature=1, seed=seed), card, 10)["seed"] for seed in seeds}
    assert len(found) == len(seeds)
    assert max(found) < 2**32


@pytest.mark.parametrize(("tokens", "sent"), [(5, {"prompt_lookup": True}), (0, {})])
def test_prompt_lookup_is_asked_of_a_model_that_can(
    make_card: Callable[..., Card], tokens: int, sent: dict[str, bool]
) -> None:
    card = make_card(context_tokens=64, prompt_lookup_tokens=tokens)
    sampling = pb.SamplingParameters(prompt_lookup=True, repetition_penalty=1, presence_penalty=0)
    found = parameters(sampling, card, 10)
    assert {name: found[name] for name in found if name == "prompt_lookup"} == sent


@pytest.mark.parametrize(
    "more", [{"temperature": 0.5}, {"repetition_penalty": 1.1}, {"presence_penalty": 1}, {"frequency_penalty": -1}]
)
def test_prompt_lookup_is_for_the_likeliest_tokens(card: Card, more: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument) as failure:
        parameters(pb.SamplingParameters(prompt_lookup=True, **more), card, 10)
    assert [v.field for v in failure.value.violations] == ["sampling.prompt_lookup"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
          for value in (math.nan, math.inf, -math.inf)),
        ("temperature", 2.1), ("temperature", -1e-6), ("top_p", 0), ("top_p", 1.1), ("top_k", 0), ("top_k", 10_000_000),
        ("repetition_penalty", 0), ("repetition_penalty", 1e-6), ("repetition_penalty", 11), ("presence_penalty", 2.1),
        ("max_tokens", 0), ("max_tokens", 65), ("seed", -1),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_named(card: Card, field: str, value: float) -> None:
    with pytest.raises(InvalidArgument) as failure:
        parameters(pb.SamplingParameters(**{field: value}), card, 10)
    assert [v.field for v in failure.value.violations] == [f"sampling.{field}"]
