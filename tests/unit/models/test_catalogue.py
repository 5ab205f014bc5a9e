"""A catalogue's faults are named before anything is built."""

from pathlib import Path

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
    with pytest.raises(BuildError, match="precision 'int8' is not supported for embed on a gpu; there is fp32, fp16"):
        entry(profile="gpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "paint"}, "task 'paint' is not known; there is embed, rerank"),
        ({"precision": "int3"}, "precision 'int3' is not supported for embed"),
        ({"source": None}, "source is missing"),
        ({"sha256": "abc"}, "sha256 must have 64 hexadecimal digits"),
        ({"gpu": "fast"}, "gpu must be a mapping"),
    ],
)
def test_faults_name_the_key(changes: dict[str, object], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        entry(**changes)


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


def test_every_precision_of_the_catalogue_is_supported() -> None:
    for profile in catalogue.PROFILES:
        assert catalogue.read(catalogue.REPOSITORY / "models.yaml", profile)
