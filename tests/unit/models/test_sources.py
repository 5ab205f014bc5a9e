"""Sources: where they are, what they should be, and a disk that cannot hold the build."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from genmesh_models import build, catalogue, sources
from genmesh_models.errors import BuildError

Usage = namedtuple("Usage", "total used free")


def entry(source: Path | str, **changes: object) -> catalogue.Entry:
    facts = {"task": "embed", "source": str(source), "precision": "int8"} | changes
    return catalogue.entry_of("mine", facts, "cpu", "models.yaml")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_source_with_another_checksum_is_refused(checkpoint: Path) -> None:
    right = sources.sha256(checkpoint / "model.safetensors")
    sources.check(entry(checkpoint, sha256=right), checkpoint)
    with pytest.raises(BuildError, match=f"has SHA-256 {right}, not {'0' * 64}"):
        sources.check(entry(checkpoint, sha256="0" * 64), checkpoint)
    with pytest.raises(BuildError, match=r"other\.safetensors is missing"):
        sources.check(entry(checkpoint, sha256={"other.safetensors": right}), checkpoint)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="mine: there is no folder"):
        sources.folder_of(entry(tmp_path / "nowhere"))
    with pytest.raises(BuildError, match="mine: the Python package no_such_package is not installed"):
        sources.folder_of(entry("package:no_such_package/model"))


def test_a_full_disk_is_said_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 2**20, 2**20))
    with pytest.raises(BuildError, match=r"mine: the disk of .* has 1 MiB left; this build needs about 64 MiB"):
        sources.check_room(entry(checkpoint), checkpoint, tmp_path)


def test_the_key_changes_with_what_a_build_depends_on_and_not_with_bounds(checkpoint: Path) -> None:
    weights = sources.checksums(checkpoint)
    key = build.build_key(entry(checkpoint), weights)
    assert build.build_key(entry(checkpoint, verify={"cosine_mean": 0.5}), weights) == key
    assert build.build_key(entry(checkpoint, precision="fp16"), weights) != key
    assert build.build_key(entry(checkpoint, context_tokens=9), weights) != key
    (checkpoint / "config.json").write_text('{"changed": 1}')
    assert build.build_key(entry(checkpoint), sources.checksums(checkpoint)) != key


def test_only_one_build_of_a_model_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    refused = pytest.raises(BuildError, match="another build of it is running")
    with build.alone(lock, "mine"), refused, build.alone(lock, "mine"):
        raise AssertionError
    with build.alone(tmp_path / "lock", "mine"):
        pass


def test_a_recipes_modules_do_not_stay_imported(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "data.py").write_text(f"WHO = {name!r}\n")
        (folder / "evaluate.py").write_text("from data import WHO\n")
    assert sources.recipe(str(tmp_path / "one"), "evaluate").WHO == "one"
    assert sources.recipe(str(tmp_path / "two"), "evaluate").WHO == "two"
    with pytest.raises(BuildError, match="cannot be loaded"):
        sources.recipe(str(tmp_path / "two"), "nothing")
