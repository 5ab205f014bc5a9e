"""From buildah's store to the nodes: an image that was not built anew is neither exported nor imported again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.cluster.kernel import run
from deploy.cluster.nodes import PAUSE, SOCKET

# Image in buildah's store -> what the nodes call it.
TAG = "0.1.0"
NAMES = {
    f"localhost/genmesh/{name}:{TAG}": f"docker.io/genmesh/{name}:{TAG}"
    for name in ("services", "triton-cpu", "milvus-lite", "redis", "prometheus")
} | {f"localhost/genmesh/pause:{TAG}": PAUSE}
# The ids of the images that scripts/images.sh built in this checkout; another on this machine uses the same names.
BUILT = Path(__file__).resolve().parents[2] / ".state" / "images"
# Archives are removed that nobody used for so long, and of each image all but those that were used last.
UNUSED_DAYS, MOST = 14, 3
BUILDAH = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}


def cache() -> Path:
    """Where archives are kept, outside of the checkout: the next checkout on this machine finds them too."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GENMESH_CACHE") or Path(base) / "genmesh").absolute() / "images"


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """The cache's folder, for this process alone."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def archives(names: dict[str, str] = NAMES) -> dict[str, tuple[str, Path]]:
    """Archives of images, exported unless the cache has them unharmed; name on the nodes -> image id, archive."""
    with locked() as folder:
        for partial in folder.glob("*.partial"):  # of a run that was killed
            partial.unlink(missing_ok=True)
        found = {name: _archive(folder, image, name) for image, name in names.items()}
        _tidy(folder)
    return found


def _built(image: str) -> str:
    """The id of an image that this checkout built; its name if another tool did."""
    noted = BUILT / _short(image)
    return noted.read_text().strip() if noted.exists() else image


def _archive(folder: Path, image: str, name: str) -> tuple[str, Path]:
    """One image's id and archive; that it was used now is noted as the archive's time."""
    image = _built(image)
    inspect = ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image]
    known = run(inspect, env=os.environ | BUILDAH).strip()
    archive = folder / f"{_short(name)}.{known}.tar"
    noted = _noted(archive)
    if archive.exists() and noted.exists() and noted.read_text().split()[:1] == [_sha256(archive)]:
        os.utime(archive)
        return known, archive
    _remove(archive)
    partial = archive.with_name(f"{archive.name}.{os.getpid()}.partial")
    try:
        run(["buildah", "push", "--quiet", image, f"docker-archive:{partial}:{name}"], env=os.environ | BUILDAH)
        noted.write_text(f"{_sha256(partial)}  {archive.name}\n")
        partial.rename(archive)
    finally:
        partial.unlink(missing_ok=True)
    return known, archive


def _tidy(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    kept = Counter[str]()
    for archive in sorted(folder.glob("*.tar"), key=lambda archive: archive.stat().st_mtime, reverse=True):
        image = archive.stem.rpartition(".")[0]
        kept[image] += 1
        if kept[image] > MOST or archive.stat().st_mtime < oldest:
            _remove(archive)


def _short(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


def _noted(archive: Path) -> Path:
    """The file beside an archive that holds its checksum, as sha256sum writes it."""
    return archive.with_name(archive.name + ".sha256")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _remove(archive: Path) -> None:
    archive.unlink(missing_ok=True)
    _noted(archive).unlink(missing_ok=True)


def with_models(models: Path, tag: str) -> dict[str, str]:
    """Triton's image with another folder of models laid over its own, as a build of it has them; for `archives`."""
    environment = os.environ | BUILDAH
    base = _built(f"localhost/genmesh/triton-cpu:{TAG}")
    container = run(["buildah", "from", "--pull-never", base], env=environment).strip()
    image = f"localhost/genmesh/triton-cpu:{tag}"
    try:
        run(["buildah", "copy", "--quiet", container, str(models), "/models"], env=environment)
        run(["buildah", "commit", "--quiet", container, image], env=environment)
    finally:
        run(["buildah", "rm", container], env=environment)
    return {image: f"docker.io/genmesh/triton-cpu:{tag}"}


def forget(tag: str) -> None:
    """Remove an image of `with_models`, and its archive."""
    run(["buildah", "rmi", f"localhost/genmesh/triton-cpu:{tag}"], env=os.environ | BUILDAH)
    with locked() as folder:
        for archive in folder.glob(f"triton-cpu-{tag}.*.tar"):
            _remove(archive)


def bring(
    images: dict[str, tuple[str, Path]], node: list[str], record: Path, say: Callable[[str], None] = lambda text: None
) -> None:
    """Import what a node does not have yet. ``node``: the prefix that runs a command there; ``record``: what it has."""
    has: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    for name, (known, archive) in images.items():
        if has.get(name) == known:
            continue
        say(name)
        run([*node, "ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import", str(archive)])
        has[name] = known
        record.write_text(json.dumps(has, indent=1))
