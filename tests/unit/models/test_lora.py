"""Adapters from elsewhere: factors that have no place in the generator are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from genmesh_models import catalogue, lora
from genmesh_models.errors import BuildError

ENTRY = catalogue.entry_of(
    "chat", {"task": "generate", "source": "somewhere", "precision": "int8-weights"}, "cpu", "models.yaml"
)
LAYER = "model.layers.0.self_attn.q_proj"
WEIGHTS = {f"{LAYER}.weight": [64, 32], "h.0.attn.c_attn.weight": [32, 96]}
A, B = (f"base_model.model.{LAYER}.lora_{factor}.weight" for factor in "AB")


def check(factors: dict[str, list[int]]) -> None:
    lora.check_fit(ENTRY, factors, WEIGHTS, Path("there"), 8)


def test_factors_that_fit() -> None:
    check({A: [8, 32], B: [64, 8]})
    gpt2 = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
    check({gpt2.format("A"): [8, 32], gpt2.format("B"): [96, 8]})


@pytest.mark.parametrize(
    ("factors", "why"),
    [
        ({}, "holds no tensor"),
        ({A: [8, 48], B: [64, 8]}, r"q_proj is of 48 to 64, which does not fit chat's \[64, 32\]"),
        ({A: [8, 32], B: [32, 8]}, r"q_proj is of 32 to 32, which does not fit chat's"),
        ({A: [8, 32]}, "q_proj has no lora_B"),
        ({B: [64, 8]}, "q_proj has no lora_A"),
        ({A: [4, 32], B: [64, 4]}, "q_proj has the ranks 4 and 4, adapter_config.json says r = 8"),
        ({A: [8, 32], B: [64, 4]}, "q_proj has the ranks 8 and 4"),
        (
            {A.replace("layers.0", "layers.9"): [8, 32], B.replace("layers.0", "layers.9"): [64, 8]},
            "chat has no layer model.layers.9.self_attn.q_proj",
        ),
        ({f"base_model.model.{LAYER}.ia3_l": [64]}, "is not a low-rank factor"),
        ({"base_model.model.lm_head.weight": [64, 32]}, "is not a low-rank factor"),
    ],
)
def test_what_does_not_fit_is_named(factors: dict[str, list[int]], why: str) -> None:
    with pytest.raises(BuildError, match=why):
        check(factors)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'; LORA is served"),
        ({"r": 8, "lora_alpha": 16, "use_dora": True}, "says use_dora, which is not served"),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}}, "has a rank_pattern: adapters of one rank"),
        ({"r": 8}, "does not say r and lora_alpha"),
    ],
)
def test_configurations_that_are_not_served(
    config: dict[str, object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "base_of", lambda *_: ({}, tmp_path, {}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    with pytest.raises(BuildError, match=why):
        lora.add(ENTRY, "mine", tmp_path, tmp_path / "models")
