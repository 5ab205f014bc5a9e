"""The GPU profile, as far as it can be held without torch and without a GPU."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from genmesh_models import gpu
from genmesh_models.catalogue import REPOSITORY, Entry, entry_of
from genmesh_models.errors import BuildError

GPU = REPOSITORY / "gpu"
SOURCES = sorted(GPU.rglob("*.py"))
SERVED = ("embedder", "reranker", "diffuser", "upscaler")
# Beside Python's own: what Triton's GPU image with vLLM has, and diffusers; then files that the build puts beside.
PACKAGES = {"torch", "transformers", "tokenizers", "diffusers", "numpy", "triton_python_backend_utils"}
BESIDE = {"projection", "ranker", "drawing", "inbox", "tensors", "torch_device", "torch_encoder", "network", "noise"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(GPU)))
def test_code_imports_only_what_the_gpu_image_has(path: Path) -> None:
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    assert found - set(sys.stdlib_module_names) <= PACKAGES | BESIDE


def test_both_profiles_diffusers_are_one_class_with_one_set_of_metrics() -> None:
    for base in (REPOSITORY, GPU):
        (model,) = [n for n in ast.walk(tree(base / "diffuser" / "1" / "model.py"))
                    if isinstance(n, ast.ClassDef) and n.name == "TritonPythonModel"]  # fmt: skip
        assert [ast.unparse(parent) for parent in model.bases] == ["Diffuser"]
        assert "measured" not in {n.attr for n in ast.walk(model) if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("name", SERVED)
def test_both_profiles_models_have_the_same_methods(name: str) -> None:
    def methods(base: Path) -> set[str]:
        nodes = ast.walk(tree(base / name / "1" / "model.py"))
        (model,) = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == "TritonPythonModel"]
        return {n.name for n in model.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}

    assert methods(REPOSITORY) == methods(GPU)


@pytest.fixture
def normal(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(GPU / "diffuser" / "1"))
    from noise import normal

    return normal


def test_a_seed_stands_for_the_cpu_profiles_noise(normal) -> None:  # type: ignore[no-untyped-def]
    # openvino_genai.CppStdGenerator(42)
    expected = [1.2219213, -0.51696414, 0.86963594, 0.72133267, 1.5885563, 1.6182171]
    np.testing.assert_allclose(normal(42, 6), expected, rtol=1e-6)


def test_noise_is_normal_and_its_beginning_does_not_depend_on_its_length(normal) -> None:  # type: ignore[no-untyped-def]
    long = normal(2**32 - 1, 20_000)
    assert long.dtype == np.float32
    assert abs(long.mean()) < 0.03
    assert abs(long.std() - 1) < 0.03
    for count in (0, 1, 2, 7, 4096):
        np.testing.assert_array_equal(normal(2**32 - 1, count), long[:count])


def generator(precision: str = "fp16", **limits: object) -> Entry:
    return entry_of(
        "generator", {"task": "generate", "source": "x", "precision": precision, **limits}, "gpu", "the test"
    )


FACTS = {"context_tokens": 4096}


def test_engine_arguments_follow_the_catalogue_and_the_checkpoint() -> None:
    found = gpu.engine_arguments(
        generator(max_sequences=32, max_batched_tokens=4096, gpu_memory_utilization=0.8, max_adapters=4), FACTS,
        quantized=False,
    )  # fmt: skip
    assert found["dtype"] == "float16"
    assert found["max_model_len"] == 4096
    assert found["max_num_seqs"] == 32
    assert found["max_num_batched_tokens"] == 4096
    assert found["gpu_memory_utilization"] == 0.8
    assert (found["enable_lora"], found["max_loras"]) == (True, 4)
    assert "quantization" not in found


def test_without_adapters_lora_is_off() -> None:
    assert not {"enable_lora", "max_loras", "max_lora_rank"} & set(
        gpu.engine_arguments(generator(max_adapters=0, max_adapter_rank=8), FACTS, quantized=False)
    )


def test_an_architecture_that_vllm_serves_without_adapters_gets_none() -> None:
    found = gpu.engine_arguments(generator(max_adapters=4), FACTS | {"max_adapters": 0}, quantized=False)
    assert "enable_lora" not in found


@pytest.mark.parametrize(
    ("precision", "quantized", "dtype", "quantization"),
    [
        ("bf16", False, "bfloat16", None),
        # Named, vLLM would take the slow kernel.
        ("awq", True, "float16", None),
        ("fp8", False, "auto", "fp8"),
        ("fp8", True, "auto", None),
    ],
)
def test_precision_becomes_vllms_words(precision: str, quantized: bool, dtype: str, quantization: str | None) -> None:
    found = gpu.engine_arguments(generator(precision), FACTS, quantized=quantized)
    assert (found["dtype"], found.get("quantization")) == (dtype, quantization)


@pytest.mark.parametrize(
    ("precision", "config", "reason"),
    [
        ("awq", {"model_type": "llama"}, "is not an AWQ checkpoint .*no quantization.*AutoAWQ"),
        ("awq", {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "names gptq quantization"),
        ("fp16", {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "quantized already .awq."),
        ("fp16", {"model_type": "t5"}, "encoder-decoder"),
        ("fp16", {"model_type": "whisper", "is_encoder_decoder": True}, "encoder-decoder"),
        ("fp16", {"model_type": "llama"}, "how many tokens"),
    ],
)
def test_a_checkpoint_that_cannot_be_served_is_refused(
    tmp_path: Path, precision: str, config: dict[str, object], reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BuildError, match=reason):
        gpu.check(tmp_path, generator(precision))


def placed(model: Path, *, lora: bool) -> Path:
    version = model / "3"
    version.mkdir(parents=True)
    (version / "model.json").write_text(json.dumps({"model": "x", "enable_lora": lora, "dtype": "float16"}))
    (version / "card.json").write_text(json.dumps({"source_sha256": {"a": "1"}}))
    for name, base in (("own", {"a": "1"}), ("foreign", {"a": "2"})):
        adapter = model / "adapters" / name
        adapter.mkdir(parents=True)
        (adapter / "adapter.json").write_text(json.dumps({"base_sha256": base}))
    return version


def test_settle_names_weights_and_adapters_from_the_repositorys_folder(tmp_path: Path) -> None:
    version = placed(tmp_path / "chat", lora=True)
    gpu.settle(tmp_path / "chat", 3)
    assert json.loads((version / "model.json").read_text()) == {
        "model": "chat/3/weights", "enable_lora": True, "dtype": "float16",
    }  # fmt: skip
    assert json.loads((version / "multi_lora.json").read_text()) == {"own": "chat/adapters/own"}


def test_settle_lists_no_adapters_where_lora_is_off(tmp_path: Path) -> None:
    version = placed(tmp_path / "chat", lora=False)
    gpu.settle(tmp_path / "chat", 3)
    assert not (version / "multi_lora.json").exists()
