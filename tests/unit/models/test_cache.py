"""Built models are kept outside of the checkout, by content; a damaged entry is no entry."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from genmesh_models import cache

from tests.conftest import ROOT


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.Shelf:
    monkeypatch.setenv("GENMESH_CACHE", str(tmp_path / "cache"))
    return cache.Shelf("models", "tiny")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    (folder / "version" / "weights").mkdir(parents=True)
    (folder / "version" / "weights" / "model.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "facts.json").write_text("{}")
    return folder


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENMESH_CACHE", "/somewhere")
    assert cache.root() == Path("/somewhere")
    monkeypatch.delenv("GENMESH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/user/cache")
    assert cache.root() == Path("/user/cache/genmesh")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache" / "genmesh"


def test_what_was_put_is_copied(shelf: cache.Shelf, built: Path, tmp_path: Path) -> None:
    assert not shelf.copy("a", tmp_path / "none")
    shelf.put("a", built)
    assert shelf.copy("a", tmp_path / "copy")
    assert cache.listed(tmp_path / "copy") == cache.listed(built)
    (tmp_path / "copy" / "facts.json").write_text("mine")  # a user's copy is the user's own
    assert shelf.copy("a", tmp_path / "again")
    assert (tmp_path / "again" / "facts.json").read_text() == "{}"
    assert not shelf.copy("b", tmp_path / "other")


@pytest.mark.parametrize("damage", ["truncated", "changed", "more", "unlisted"])
def test_a_damaged_entry_is_none(shelf: cache.Shelf, built: Path, tmp_path: Path, damage: str) -> None:
    shelf.put("a", built)
    weights = shelf.folder / "a" / "version" / "weights" / "model.bin"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    elif damage == "more":
        (weights.parent / "other.bin").touch()
    else:
        (shelf.folder / "a.sha256").unlink()
    assert not shelf.copy("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    shelf.put("a", built)
    assert shelf.copy("a", tmp_path / "copy")


def test_what_nothing_asks_for_is_deleted(shelf: cache.Shelf, built: Path, tmp_path: Path) -> None:
    for key in ("old", "used"):
        shelf.put(key, built)
        long_ago = time.time() - cache.UNUSED_SECONDS - 60
        os.utime(shelf.folder / f"{key}.sha256", (long_ago, long_ago))
    assert shelf.copy("used", tmp_path / "copy")
    shelf.put("new", built)
    assert sorted(path.stem for path in shelf.folder.glob("*.sha256")) == ["new", "used"]
    assert sorted(path.name for path in shelf.folder.iterdir() if path.is_dir()) == ["new", "used"]


PROGRAM = """
import sys
from pathlib import Path
from genmesh_models import cache
shelf, source, out = cache.Shelf("models", "tiny"), Path(sys.argv[1]), Path(sys.argv[2])
for turn in range(20):
    shelf.put("a", source)
    if shelf.copy("a", out / str(turn)):
        assert cache.listed(out / str(turn)) == cache.listed(source)
    else:
        sys.exit("the entry was not whole")
"""


def test_processes_that_put_and_copy_at_once_see_whole_entries(shelf: cache.Shelf, built: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "model_repository")}
    running = []
    for number in range(3):
        (out := tmp_path / f"out-{number}").mkdir()
        command = [sys.executable, "-c", PROGRAM, str(built), str(out)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
