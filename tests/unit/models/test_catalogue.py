"""A catalogue's faults are named before anything is built."""

from pathlib import Path

import plugin
import pytest
import yaml
from genmesh_models import catalogue
from genmesh_models.errors import BuildError

GOOD = {"task": "embed", "source": "somewhere", "precision": "int8", "context_tokens": 128}


def entry(name: str = "mine", profile: str = "cpu", **changes: object) -> catalogue.Entry:
    return catalogue.entry_of(name, GOOD | changes, profile, "models.yaml")


def test_what_is_not_about_building_becomes_the_card() -> None:
    found = entry(sha256="a" * 64, verify={"cosine_mean": 0.5})
    assert found.limits == {"context_tokens": 128}
    assert found.sha256 == {"model.safetensors": "a" * 64}
    assert found.verify == {"cosine_mean": 0.5}


def test_a_profile_changes_what_it_names() -> None:
    assert entry(gpu={"precision": "fp16"}).precision == "int8"
    assert entry(profile="gpu", gpu={"precision": "fp16"}).precision == "fp16"
    assert entry(profile="gpu").precision == "fp16"
    with pytest.raises(BuildError, match="precision 'int3' is not supported for embed on a gpu; there is fp32, fp16"):
        entry(profile="gpu", precision="int3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "paint"}, "task 'paint' is not known; there is embed, rerank"),
        ({"precision": "int3"}, "precision 'int3' is not supported for embed"),
        ({"source": None}, "source is missing"),
        ({"precision": None, "precison": "int8"}, "precision is missing; there is precison instead"),
        ({"sha256": "abc"}, "sha256 must have 64 hexadecimal digits"),
        ({"sha256": [1]}, "sha256 must have 64 hexadecimal digits"),
        ({"gpu": "fast"}, "gpu must be a mapping"),
        ({"verify": {"cosine": 0.9}}, "there is no figure cosine; there is cosine_mean"),
        ({"verify": {"cosine_mean": "high"}}, "verify must be a mapping of figures to their bounds"),
        ({"context_token": 128}, "there is no context_token; for embed there is adapter, context_tokens, evaluate"),
        ({"context_tokens": "many"}, "context_tokens must be a number that is not negative"),
        ({"context_tokens": -1}, "context_tokens must be a number that is not negative"),
        ({"adapter": "mine"}, "an adapter is merged into a generator's source"),
    ],
)
def test_faults_name_the_key(changes: dict[str, object], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        entry(**changes)


def test_a_model_of_one_profile_only(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        "both: {task: embed, source: a, precision: int8}\n"
        "large: {task: generate, source: b, precision: awq, only: gpu}\n"
    )
    assert list(catalogue.read(path, "cpu")) == ["both"]
    assert list(catalogue.read(path, "gpu")) == ["both", "large"]
    with pytest.raises(BuildError, match=r"large: models\.yaml has a model of that name already"):
        catalogue.without(path, "large")
    with pytest.raises(BuildError, match="only must be one of cpu, gpu"):
        entry(only="tpu")


def test_no_name_and_no_key_stands_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("one: {task: embed, source: a, precision: int8}\none: {task: embed, source: b, precision: int8}\n")
    with pytest.raises(BuildError, match=r"models.yaml is not YAML: one stands there twice, again in line 2"):
        catalogue.read(path)
    path.write_text("one:\n  task: embed\n  source: a\n  precision: int8\n  source: b\n")
    with pytest.raises(BuildError, match="source stands there twice, again in line 5"):
        catalogue.read(path)


@pytest.mark.parametrize("name", ["", "Mine", "1st", "a/b", "a" * 64])
def test_bad_names(name: str) -> None:
    with pytest.raises(BuildError, match="a model's name has 1 to 63"):
        entry(name)


def test_the_environment_takes_the_place_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENMESH_MY_WRITER_SOURCE", "/other")
    found = entry("my-writer", sha256="a" * 64)
    assert found.source == "/other"
    assert found.overridden


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is not YAML"), ("", "lists no model"), ("mine: 3", "must be a mapping")]
)
def test_files_that_are_no_catalogue(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(BuildError, match=said):
        catalogue.read(path)
    with pytest.raises(BuildError, match="cannot be read"):
        catalogue.read(tmp_path / "nowhere.yaml")


def test_append_keeps_what_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("# why\nmine:\n  task: embed # here\n  source: a\n  precision: fp32\n")
    catalogue.append(path, "other", GOOD)
    assert path.read_text().startswith("# why\nmine:\n  task: embed # here\n")
    assert list(catalogue.read(path)) == ["mine", "other"]
    assert yaml.safe_load(path.read_text())["other"] == GOOD
    with pytest.raises(BuildError, match="has a model of that name already"):
        catalogue.append(path, "other", GOOD)
    with pytest.raises(BuildError, match="precision"):
        catalogue.append(path, "third", GOOD | {"precision": "none"})
    assert list(catalogue.read(path)) == ["mine", "other"]


def test_a_source_beside_its_catalogue(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "models.yaml"
    path.write_text(
        "mine: {task: embed, source: checkpoint, precision: fp32}\nother: {task: embed, source: starter/x, precision: fp32}\n"
    )
    found = catalogue.read(path)
    assert found["mine"].source == str(tmp_path / "checkpoint")
    assert found["other"].source == "starter/x"


def test_a_name_of_a_folder_that_is_no_model_has_its_tasks_template() -> None:
    assert entry("shared").template == catalogue.REPOSITORY / "embedder"


def test_every_precision_of_the_catalogue_is_supported() -> None:
    for profile in catalogue.PROFILES:
        assert catalogue.read(catalogue.REPOSITORY / "models.yaml", profile)


def test_what_an_entry_does_not_say_has_a_default() -> None:
    found = catalogue.entry_of(
        "chat", {"task": "generate", "source": "x", "precision": "fp16", "max_waiting": 8}, "cpu", "f"
    )
    assert (found.limits["kv_cache_gigabytes"], found.limits["max_waiting"]) == (1, 8)


def test_what_was_tuned_for_a_starter_is_not_for_what_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"task": "diffuse", "source": "x", "precision": "fp16", "default_guidance_scale": 2.0, "max_pixels": 4096}
    assert catalogue.entry_of("painter", facts, "cpu", "f").limits["default_guidance_scale"] == 2
    monkeypatch.setenv("GENMESH_PAINTER_SOURCE", "/other")
    found = catalogue.entry_of("painter", facts, "cpu", "f")
    assert (found.limits["default_guidance_scale"], found.limits["max_pixels"]) == (7.5, 4096)


def test_a_folder_that_is_typed_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENMESH_MINE_SOURCE", "mine")
    assert entry().source == str(tmp_path / "mine")


@pytest.mark.parametrize("bfloat16", [True, False])
def test_what_a_cpu_computes_in_is_always_said(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, unless the entry lets the building machine choose."""
    monkeypatch.setattr("plugin.has_bfloat16", lambda: bfloat16)
    chosen = {"inference_precision": "bf16" if bfloat16 else "f32"}
    for precision in ("fp32", "fp16", "int8", "int8-weights"):
        assert entry(precision=precision).hints == {"inference_precision": "f32"}
        assert entry(precision=precision, inference="auto").hints == chosen
    assert entry(precision="bf16").hints == chosen
    assert entry(precision="bf16", inference="f32").hints == {"inference_precision": "f32"}
    with pytest.raises(BuildError, match="inference must be one of f32, auto"):
        entry(inference="bf16")


def test_a_model_of_bfloat16_does_not_load_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugin.has_bfloat16", lambda: False)
    assert plugin.options({}) == plugin.options({"inference_precision": "f32"}) == {"INFERENCE_PRECISION_HINT": "f32"}
    with pytest.raises(RuntimeError, match="to compute in bfloat16, which this processor does not have"):
        plugin.options({"inference_precision": "bf16"})
    monkeypatch.setattr("plugin.has_bfloat16", lambda: True)
    assert plugin.options({"inference_precision": "bf16"}) == {"INFERENCE_PRECISION_HINT": "bf16"}


def test_a_catalogue_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_bytes(b"embedder: \xff")
    with pytest.raises(BuildError, match="is not UTF-8"):
        catalogue.read(tmp_path / "models.yaml")
