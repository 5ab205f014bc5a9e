"""The models of both profiles have the tensors that the services use; the catalogue and the built cards fit them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from genmesh_models import catalogue, gpu
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.conftest import MODELS, ROOT

REPOSITORY = ROOT / "model_repository"
PROFILES = {"cpu": REPOSITORY, "gpu": REPOSITORY / "gpu"}
# name: (inputs, outputs, decoupled), as tensor: (data type, shape without the batch)
USED: dict[str, tuple[dict[str, tuple[str, list[int]]], dict[str, tuple[str, list[int]]], bool]] = {
    "embedder": (
        {"text": ("TYPE_STRING", [1])},
        {"embedding": ("TYPE_FP32", [-1]), "token_count": ("TYPE_INT32", [1])},
        False,
    ),
    "reranker": (
        {"query": ("TYPE_STRING", [1]), "passage": ("TYPE_STRING", [1])},
        {"score": ("TYPE_FP32", [1])},
        False,
    ),
    # The tensors of Triton's vLLM backend (its model.py, auto_complete_config).
    "generator": (
        {
            "text_input": ("TYPE_STRING", [1]), "stream": ("TYPE_BOOL", [1]),
            "sampling_parameters": ("TYPE_STRING", [1]), "exclude_input_in_output": ("TYPE_BOOL", [1]),
            "return_finish_reason": ("TYPE_BOOL", [1]), "return_cumulative_logprob": ("TYPE_BOOL", [1]),
            "return_logprobs": ("TYPE_BOOL", [1]), "return_num_input_tokens": ("TYPE_BOOL", [1]),
            "return_num_output_tokens": ("TYPE_BOOL", [1]),
        },
        {
            "text_output": ("TYPE_STRING", [-1]), "finish_reason": ("TYPE_STRING", [-1]),
            "cumulative_logprob": ("TYPE_FP32", [-1]), "logprobs": ("TYPE_STRING", [-1]),
            "num_input_tokens": ("TYPE_UINT32", [1]), "num_output_tokens": ("TYPE_UINT32", [-1]),
        },
        True,
    ),
    "diffuser": (
        {
            "prompt": ("TYPE_STRING", [1]), "negative_prompt": ("TYPE_STRING", [1]), "width": ("TYPE_INT32", [1]),
            "height": ("TYPE_INT32", [1]), "steps": ("TYPE_INT32", [1]), "guidance_scale": ("TYPE_FP32", [1]),
            "seed": ("TYPE_INT64", [1]), "preview_every_steps": ("TYPE_INT32", [1]),
        },
        {"step": ("TYPE_INT32", [1]), "image": ("TYPE_UINT8", [-1, -1, 3]), "final": ("TYPE_BOOL", [1])},
        True,
    ),
    "upscaler": (
        {"image": ("TYPE_UINT8", [-1, -1, 3])},
        {"image": ("TYPE_UINT8", [-1, -1, 3])},
        False,
    ),
}  # fmt: skip
# Inputs that a request may leave out.
OPTIONAL = {
    "generator": set(USED["generator"][0]) - {"text_input"},
    "diffuser": {"negative_prompt", "preview_every_steps"},
}
# What services and models read from a built model's card, beside what every card has.
TASK_FACTS = {
    "embed": {"context_tokens", "dimension", "pooling"},
    "rerank": {"context_tokens", "scoring"},
    "generate": {"context_tokens", "vocabulary_size", "end_token_ids", "begin_token", "begin_token_id", "max_waiting"},
    "diffuse": {
        "default_width", "default_height", "default_steps", "default_guidance_scale", "max_pixels", "max_waiting",
    },
    "upscale": {"max_pixels", "reach", "tile"},
}  # fmt: skip
# Fields of vLLM's AsyncEngineArgs (vllm/engine/arg_utils.py) that it has had since 0.6; it refuses others.
ENGINE_ARGUMENTS = {
    "model", "dtype", "quantization", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "gpu_memory_utilization", "enable_prefix_caching", "tensor_parallel_size", "disable_log_stats", "enable_lora",
    "max_loras", "max_lora_rank",
}  # fmt: skip


def config_of(profile: str, name: str) -> Any:
    text = (PROFILES[profile] / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def tensors(found: Any) -> dict[str, tuple[str, list[int]]]:
    return {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in found}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", USED)
def test_config_has_the_tensors_that_services_use(name: str, profile: str) -> None:
    config = config_of(profile, name)
    inputs, outputs, decoupled = USED[name]
    assert config.name == name
    assert tensors(config.input) == inputs
    assert tensors(config.output) == outputs
    assert {t.name for t in config.input if t.optional} == OPTIONAL.get(name, set())
    assert config.model_transaction_policy.decoupled is decoupled


@pytest.mark.parametrize("name", USED)
def test_both_profiles_batch_alike(name: str) -> None:
    cpu, on_gpu = (config_of(profile, name) for profile in PROFILES)
    assert cpu.max_batch_size == on_gpu.max_batch_size
    assert cpu.dynamic_batching == on_gpu.dynamic_batching


@pytest.mark.parametrize("name", USED)
def test_each_profile_runs_where_it_says(name: str) -> None:
    kinds = model_config_pb2.ModelInstanceGroup
    (group,) = config_of("cpu", name).instance_group
    assert group.kind == kinds.KIND_CPU
    config = config_of("gpu", name)
    (group,) = config.instance_group
    # vLLM takes its GPUs itself.
    assert (config.backend, group.kind) == (
        ("vllm", kinds.KIND_MODEL) if name == "generator" else ("python", kinds.KIND_GPU)
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_the_catalogue_has_exactly_the_models_of_the_repository(profile: str) -> None:
    entries = catalogue.read(REPOSITORY / "models.yaml", profile)
    assert set(entries) == set(USED) == {p.parent.name for p in PROFILES[profile].glob("*/config.pbtxt")}
    for name, entry in entries.items():
        assert entry.template == PROFILES[profile] / name


def test_vllm_knows_every_argument_of_its_engine() -> None:
    template = json.loads((REPOSITORY / "gpu" / "generator" / "1" / "model.json").read_text())
    assert set(template) <= ENGINE_ARGUMENTS
    entry = catalogue.read(REPOSITORY / "models.yaml", "gpu")["generator"]
    made = gpu.engine_arguments(entry, {"context_tokens": 2048}, quantized=False)
    assert set(template) <= set(made) <= ENGINE_ARGUMENTS
    every = {"max_adapters": 2, "max_adapter_rank": 16, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}
    whole = catalogue.entry_of(
        "generator", {"task": "generate", "source": "x", "precision": "fp8"} | every, "gpu", "here"
    )
    made = gpu.engine_arguments(whole, {"context_tokens": 2048}, quantized=False)
    assert set(made) == ENGINE_ARGUMENTS


@pytest.mark.parametrize("name", USED)
def test_the_built_model_is_whole_and_described(name: str) -> None:
    entry = catalogue.read(REPOSITORY / "models.yaml")[name]
    card = json.loads((MODELS / name / "model.json").read_text())
    version = MODELS / name / card["version"]
    assert (card["name"], card["task"], card["profile"]) == (name, entry.task, "cpu")
    assert (card["precision"], card["source"]) == (entry.precision, entry.source)
    assert len(card["revision"]) == 12
    assert card["engine"]
    assert card["parameter_count"] > 50_000
    assert card["inference_precision"] == "f32"
    assert set(card) >= TASK_FACTS[entry.task]
    assert card["verification"]
    for figure in card["verification"]:
        assert set(figure) == {"name", "value", "reference", "bound", "at_least"}
    history = {
        key: value for key, value in card.items() if key in ("previous_version", "rolled_back", "served_version")
    }
    assert json.loads((version / "card.json").read_text()) | history == card
    assert (version / "model.py").read_text() == (REPOSITORY / name / "1" / "model.py").read_text()
    assert any((version / "weights").iterdir())
    config = text_format.Parse((MODELS / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert list(config.version_policy.specific.versions) == [int(card["version"])]


def test_the_starter_weights_are_small() -> None:
    total = sum(p.stat().st_size for p in (REPOSITORY / "starter").rglob("*") if p.is_file())
    assert total <= 40 * 2**20
