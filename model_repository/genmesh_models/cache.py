"""A cache of built things outside of any checkout: $GENMESH_CACHE, else `genmesh` in the user's cache folder.

    KIND/NAME/KEY/           what was built
    KIND/NAME/KEY.sha256     its files' checksums, written last, as `sha256sum` writes them
    KIND/NAME/.lock

The key is a checksum of all that the content depends on. An entry counts only while every file is what the list says, so
one that was cut short, changed or left half-written is built anew. Processes that want the same entry wait for one
another. (``scripts/go-tools.sh`` keeps entries of the same shape.)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genmesh_models.sources import sha256

UNUSED_SECONDS = 30 * 24 * 3600.0  # entries that nothing asked for in this time are deleted


def root() -> Path:
    """The cache's folder, as an absolute path."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GENMESH_CACHE") or Path(base) / "genmesh").absolute()


def listed(folder: Path) -> str:
    """The checksums of a folder's files, a line a file: 64 hexadecimal digits, two spaces, the path."""
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        lines.append(f"{sha256(path)}  ./{path.relative_to(folder)}\n")
    return "".join(lines)


class Shelf:
    """The entries of one kind and name."""

    def __init__(self, kind: str, name: str) -> None:
        self.folder = root() / kind / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off this shelf."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def copy(self, key: str, target: Path) -> bool:
        """Copy an entry's files to ``target``, which must not exist yet; False if there is no whole entry of that key."""
        with self.locked():
            entry, sums = self.folder / key, self.folder / f"{key}.sha256"
            if not sums.is_file():
                return False
            shutil.copytree(entry, target)
            if listed(target) != sums.read_text():
                shutil.rmtree(target)
                self._delete(key)
                return False
            sums.touch()
            return True

    def put(self, key: str, source: Path) -> None:
        """Keep a copy of a folder, in place of what is there under that key."""
        with self.locked():
            self._make(key, lambda target: shutil.copytree(source, target))

    def made(self, key: str, make: Callable[[Path], object]) -> Path:
        """The folder of an entry, to be read only; ``make`` is given where to make it if there is no whole one."""
        with self.locked():
            entry, sums = self.folder / key, self.folder / f"{key}.sha256"
            if sums.is_file() and listed(entry) == sums.read_text():
                sums.touch()
            else:
                self._make(key, make)
            return entry

    def _make(self, key: str, make: Callable[[Path], object]) -> None:
        self._delete(key)
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            make(Path(made) / key)
            text = listed(Path(made) / key)
            (Path(made) / key).rename(self.folder / key)
        sums = self.folder / f".{key}.new"
        sums.write_text(text)
        sums.replace(self.folder / f"{key}.sha256")
        for other in self.folder.glob("*.sha256"):
            if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
                self._delete(other.stem)

    def _delete(self, key: str) -> None:
        (self.folder / f"{key}.sha256").unlink(missing_ok=True)
        shutil.rmtree(self.folder / key, ignore_errors=True)
