"""Sources: where they are, what they should be, and a disk that cannot hold the build."""

import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from genmesh_models import build, catalogue, gguf_file, sources
from genmesh_models.errors import BuildError, sentence

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
    with pytest.raises(
        BuildError, match=f"has SHA-256 {right}, not the catalogue's {'0' * 64}: .*write its SHA-256 into the catalogue"
    ):
        sources.check(entry(checkpoint, sha256="0" * 64), checkpoint)
    with pytest.raises(BuildError, match=r"other\.safetensors is missing"):
        sources.check(entry(checkpoint, sha256={"other.safetensors": right}), checkpoint)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="mine: there is no folder"):
        sources.folder_of(entry(tmp_path / "nowhere"))
    for package in ("no_such_package", "no.such", ""):
        with pytest.raises(BuildError, match=f"mine: the Python package '{package}' is not installed"):
            sources.folder_of(entry(f"package:{package}/model"))


def test_a_gguf_file_is_written_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is the catalogue's; a folder that was damaged, or is of another file, is made anew."""
    monkeypatch.setenv("GENMESH_CACHE", str(tmp_path / "cache"))
    read: list[bytes] = []

    def unpack(path: Path, into: Path) -> None:
        read.append(path.read_bytes())
        (into / "model.safetensors").write_bytes(path.read_bytes())

    monkeypatch.setattr(gguf_file, "unpack", unpack)
    file = tmp_path / "small.Q4_1.gguf"
    file.write_bytes(b"one")
    mine = entry(file, task="generate", sha256={file.name: sources.sha256(file)})
    folder = sources.folder_of(mine)
    assert (folder / "model.safetensors").read_bytes() == b"one"
    sources.check(mine, folder)
    assert (sources.folder_of(mine), read) == (folder, [b"one"])
    (folder / "model.safetensors").write_bytes(b"on")
    assert (sources.folder_of(mine), read) == (folder, [b"one"] * 2)
    file.write_bytes(b"two")
    assert (sources.folder_of(mine) / "model.safetensors").read_bytes() == b"two"
    with pytest.raises(BuildError, match=r"mine: .*small\.Q4_1\.gguf has SHA-256 .*, not the catalogue's"):
        sources.check(mine, folder)


def test_gguf_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"mine: there is no file .*/none\.gguf"):
        sources.folder_of(entry(tmp_path / "none.gguf", task="generate"))
    (tmp_path / "some.gguf").touch()
    with pytest.raises(BuildError, match="mine: GGUF files are read for generators; this one's task is embed"):
        sources.folder_of(entry(tmp_path / "some.gguf"))


def test_names_that_the_hub_cannot_have() -> None:
    with pytest.raises(BuildError, match="mine: 'not/a/valid/id' is no model's name on the hub"):
        sources.folder_of(entry("hub:not/a/valid/id"))


def test_what_fails_is_a_sentence(tmp_path: Path) -> None:
    assert sentence(FileNotFoundError(2, "No such file or directory", "x")) == "x: No such file or directory"
    assert sentence(KeyError("hidden_size"), [tmp_path / "not" / "there"]) == "KeyError: 'hidden_size'"
    assert sentence(shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])).startswith("a disk is full")


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


def test_only_one_build_of_a_model_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told, order = tmp_path / "models" / "mine", threading.Event(), []

    def other() -> None:
        with build.alone(model, lambda step: told.set()):
            order.append("the other")

    waiting = threading.Thread(target=other)
    with build.alone(model):
        waiting.start()
        assert told.wait(60)  # "check: waits for another build of it"
        order.append("this")
        monkeypatch.setattr(build, "WAIT_SECONDS", -1)
        with (
            pytest.raises(BuildError, match="another build of it has been running for"),
            build.alone(model),
        ):
            raise AssertionError
    waiting.join()
    assert order == ["this", "the other"]


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
