"""From buildah's store to the nodes: what was not built anew since is neither written nor imported again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from deploy.cluster.kernel import run
from deploy.cluster.nodes import PAUSE, SOCKET

# Image in buildah's store -> what the nodes call it.
TAG = "0.1.0"
NAMES = {
    f"localhost/genmesh/{name}:{TAG}": f"docker.io/genmesh/{name}:{TAG}"
    for name in ("services", "triton-cpu", "milvus-lite", "redis", "prometheus")
} | {f"localhost/genmesh/pause:{TAG}": PAUSE}
BUILDAH = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}


def archives(folder: Path, names: dict[str, str] = NAMES) -> dict[str, tuple[str, Path]]:
    """Write images to archives where they changed; name on the nodes -> image id, archive."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | BUILDAH
    found = {}
    for image, name in names.items():
        known = run(
            ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image], env=environment
        ).strip()
        short = name.rpartition("/")[2].replace(":", "-")
        archive, stamp = folder / f"{short}.tar", folder / f"{short}.id"
        if not archive.exists() or not stamp.exists() or stamp.read_text() != known:
            stamp.unlink(missing_ok=True)
            archive.unlink(missing_ok=True)
            run(["buildah", "push", "--quiet", image, f"docker-archive:{archive}:{name}"], env=environment)
            stamp.write_text(known)
        found[name] = (known, archive)
    return found


def with_models(models: Path, tag: str) -> dict[str, str]:
    """Triton's image with another folder of models laid over its own, as a build of it has them; for `archives`."""
    environment = os.environ | BUILDAH
    container = run(["buildah", "from", "--pull-never", f"localhost/genmesh/triton-cpu:{TAG}"], env=environment).strip()
    image = f"localhost/genmesh/triton-cpu:{tag}"
    try:
        run(["buildah", "copy", "--quiet", container, str(models), "/models"], env=environment)
        run(["buildah", "commit", "--quiet", container, image], env=environment)
    finally:
        run(["buildah", "rm", container], env=environment)
    return {image: f"docker.io/genmesh/triton-cpu:{tag}"}


def forget(tag: str, folder: Path) -> None:
    """Remove an image of `with_models`, and its archive."""
    run(["buildah", "rmi", f"localhost/genmesh/triton-cpu:{tag}"], env=os.environ | BUILDAH)
    for suffix in ("tar", "id"):
        (folder / f"triton-cpu-{tag}.{suffix}").unlink(missing_ok=True)


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
