"""Every model's config.pbtxt has the tensors that the services send and read; the catalogue names each model."""

from __future__ import annotations

import json

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.conftest import MODELS, ROOT

REPOSITORY = ROOT / "model_repository"
# name: (inputs, outputs, decoupled), as (tensor, data type)
USED = {
    "embedder": ({("text", "TYPE_STRING")}, {("embedding", "TYPE_FP32"), ("token_count", "TYPE_INT32")}, False),
    "reranker": ({("query", "TYPE_STRING"), ("passage", "TYPE_STRING")}, {("score", "TYPE_FP32")}, False),
    # The tensors of Triton's vLLM backend (its model.py, auto_complete_config).
    "generator": (
        {
            ("text_input", "TYPE_STRING"), ("stream", "TYPE_BOOL"), ("sampling_parameters", "TYPE_STRING"),
            ("exclude_input_in_output", "TYPE_BOOL"), ("return_finish_reason", "TYPE_BOOL"),
            ("return_cumulative_logprob", "TYPE_BOOL"), ("return_logprobs", "TYPE_BOOL"),
            ("return_num_input_tokens", "TYPE_BOOL"), ("return_num_output_tokens", "TYPE_BOOL"),
        },
        {
            ("text_output", "TYPE_STRING"), ("finish_reason", "TYPE_STRING"), ("cumulative_logprob", "TYPE_FP32"),
            ("logprobs", "TYPE_STRING"), ("num_input_tokens", "TYPE_UINT32"), ("num_output_tokens", "TYPE_UINT32"),
        },
        True,
    ),
    "diffuser": (
        {
            ("prompt", "TYPE_STRING"), ("negative_prompt", "TYPE_STRING"), ("width", "TYPE_INT32"),
            ("height", "TYPE_INT32"), ("steps", "TYPE_INT32"), ("guidance_scale", "TYPE_FP32"),
            ("seed", "TYPE_INT64"), ("preview_every_steps", "TYPE_INT32"),
        },
        {("step", "TYPE_INT32"), ("image", "TYPE_UINT8"), ("final", "TYPE_BOOL")},
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
def test_config_has_the_tensors_that_services_use(name: str) -> None:
    config = text_format.Parse((REPOSITORY / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    inputs, outputs, decoupled = USED[name]
    kind = model_config_pb2.DataType.Name
    assert config.name == name
    assert {(t.name, kind(t.data_type)) for t in config.input} == inputs
    assert {(t.name, kind(t.data_type)) for t in config.output} == outputs
    assert config.model_transaction_policy.decoupled is decoupled


def test_the_catalogue_has_exactly_the_models_of_the_repository() -> None:
    catalogue = yaml.safe_load((REPOSITORY / "models.yaml").read_text())
    assert set(catalogue) == set(USED) == {p.parent.name for p in REPOSITORY.glob("*/config.pbtxt")}


@pytest.mark.parametrize("name", USED)
def test_the_built_model_is_whole_and_described(name: str) -> None:
    card = json.loads((MODELS / name / "model.json").read_text())
    assert card["name"] == name
    assert card["precision"] == "int8"
    assert len(card["revision"]) == 12
    assert card["parameter_count"] > 100_000
    assert (MODELS / name / "1" / "model.py").read_text() == (REPOSITORY / name / "1" / "model.py").read_text()


def test_the_starter_weights_are_small() -> None:
    total = sum(p.stat().st_size for p in (REPOSITORY / "starter").rglob("*") if p.is_file())
    assert total <= 40 * 2**20
