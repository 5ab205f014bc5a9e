"""Archives of images are kept outside of the checkout, checked when they are used, and exported once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.cluster import images
from deploy.cluster.cluster import ROOT

NAMES = {"localhost/genmesh/one:1": "docker.io/genmesh/one:1", "localhost/genmesh/two:1": "docker.io/genmesh/two:1"}
# It knows the ids of images by a file, notes each export, and takes its time about it.
BUILDAH = """#!/bin/sh
set -e
here=$(dirname "$0")
case $1 in
inspect) echo "$(cat "$here/id")-$(basename "$6" | tr : -)" ;;
push)
  echo "$3" >>"$here/exports"
  file=${4#docker-archive:}
  printf 'half' >"${file%%:*}"
  sleep 0.2
  [ ! -e "$here/fails" ]
  printf ' and half of %s' "$3" >>"${file%%:*}" ;;
esac
"""


@pytest.fixture
def buildah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a buildah that only does as if."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "buildah").write_text(BUILDAH)
    (folder / "buildah").chmod(0o755)
    (folder / "id").write_text("a")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("GENMESH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "BUILT", tmp_path / "built")
    return folder


def exports(buildah: Path) -> int:
    return len((buildah / "exports").read_text().splitlines())


def test_an_image_is_exported_once(buildah: Path, tmp_path: Path) -> None:
    found = images.archives(NAMES)
    assert found.keys() == set(NAMES.values())
    known, archive = found["docker.io/genmesh/one:1"]
    assert known == "a-one-1"
    assert archive.parent == tmp_path / "cache" / "images"
    assert archive.read_text() == "half and half of localhost/genmesh/one:1"
    check = ["sha256sum", "--check", "--quiet", archive.name + ".sha256"]
    assert subprocess.run(check, cwd=archive.parent, check=False).returncode == 0
    assert images.archives(NAMES) == found
    assert exports(buildah) == 2


def test_an_image_that_was_built_anew_is_exported_anew(buildah: Path) -> None:
    before = images.archives(NAMES)
    (buildah / "id").write_text("b")
    assert images.archives(NAMES) != before
    (buildah / "id").write_text("a")
    assert images.archives(NAMES) == before
    assert exports(buildah) == 4


def test_another_checkouts_image_of_that_name_is_not_taken(buildah: Path, tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "one-1").write_text("sha256:ours\n")
    found = images.archives(NAMES)
    assert found["docker.io/genmesh/one:1"][0] == "a-sha256-ours"
    assert found["docker.io/genmesh/two:1"][0] == "a-two-1"
    assert (buildah / "exports").read_text().splitlines()[0] == "sha256:ours"


@pytest.mark.parametrize("harm", ["truncated", "changed", "gone", "unknown"])
def test_an_archive_that_came_to_harm_is_exported_anew(buildah: Path, harm: str) -> None:
    _, archive = images.archives(NAMES)["docker.io/genmesh/one:1"]
    whole = archive.read_bytes()
    if harm == "truncated":
        archive.write_bytes(whole[:-1])
    elif harm == "changed":
        archive.write_bytes(b"H" + whole[1:])
    elif harm == "gone":
        archive.unlink()
    else:
        archive.with_name(archive.name + ".sha256").write_text("")
    assert images.archives(NAMES)["docker.io/genmesh/one:1"][1] == archive
    assert archive.read_bytes() == whole
    assert exports(buildah) == 3


def test_an_export_that_fails_leaves_no_archive(buildah: Path, tmp_path: Path) -> None:
    (buildah / "fails").touch()
    with pytest.raises(RuntimeError, match="buildah push"):
        images.archives(NAMES)
    assert [file.name for file in (tmp_path / "cache" / "images").iterdir()] == ["lock"]
    (buildah / "fails").unlink()
    left = tmp_path / "cache" / "images" / "one-1.a.tar.7.partial"  # of a run that was killed
    left.touch()
    images.archives(NAMES)
    assert not left.exists()


def test_two_runs_at_once_export_once(buildah: Path) -> None:
    command = [sys.executable, "-c", f"from deploy.cluster import images; images.archives({NAMES!r})"]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert exports(buildah) == 2


def test_archives_that_nobody_used_for_long_are_removed(buildah: Path) -> None:
    old = images.archives(NAMES)
    (buildah / "id").write_text("b")
    images.archives(NAMES)
    long_ago = time.time() - 15 * 24 * 3600
    for _, archive in old.values():
        os.utime(archive, (long_ago, long_ago))
    (buildah / "id").write_text("a")
    images.archives({"localhost/genmesh/one:1": "docker.io/genmesh/one:1"})  # one of them is used again
    assert [archive.exists() for _, archive in old.values()] == [True, False]
    assert not any(file.name.startswith("two-1.a-") for file in old["docker.io/genmesh/one:1"][1].parent.iterdir())
    assert exports(buildah) == 4


def test_of_each_image_the_last_few_are_kept(buildah: Path) -> None:
    found = []
    for known in "abcd":
        (buildah / "id").write_text(known)
        found.append(images.archives(NAMES)["docker.io/genmesh/one:1"][1])
    assert [archive.exists() for archive in found] == [False, True, True, True]
    assert len(list(found[0].parent.glob("*.tar"))) == 6


def test_an_image_is_forgotten(buildah: Path) -> None:
    found = images.archives({"localhost/genmesh/triton-cpu:swapped": "docker.io/genmesh/triton-cpu:swapped"})
    images.forget("swapped")
    assert not [archive for _, archive in found.values() if archive.exists()]
