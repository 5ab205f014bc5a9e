"""A model's folder in Triton's repository: versions side by side, one of them active.

    NAME/config.pbtxt     the template's, with the versions that Triton may load
    NAME/model.json       the active version's card; services read it and look for a new one each second
    NAME/N/card.json      version N's card
    NAME/N/model.py ...   what Triton runs, and weights/
    NAME/adapters/        LoRA adapters, by name

A version is made elsewhere and renamed into place when it is whole, so Triton never sees half of one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genmesh_models import control
from genmesh_models.errors import BuildError

KEPT = 2  # versions that stay on the disk: the active one and the one before
# Services look for a new card each second; for so long both versions answer.
OVERLAP_SECONDS = 4.0


def versions(model: Path) -> list[int]:
    """The versions on the disk, oldest first."""
    return sorted(int(p.name) for p in model.glob("[0-9]*") if p.name.isdigit() and (p / "card.json").is_file())


def active(model: Path) -> dict[str, Any] | None:
    """The active version's card."""
    path = model / "model.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write_whole(path: Path, text: str) -> None:
    """So that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def allow(model: Path, numbers: Iterable[int]) -> None:
    """Let Triton load these versions and no others."""
    path = model / "config.pbtxt"
    listed = ", ".join(map(str, sorted(numbers)))
    text = re.sub(r"\nversion_policy \{.*\}\n", "\n", path.read_text()).rstrip("\n")
    write_whole(path, f"{text}\nversion_policy {{ specific {{ versions: [ {listed} ] }} }}\n")


def place(staged: Path, template: Path, model: Path, name: str, card: dict[str, Any]) -> int:
    """Rename a whole version folder into place, not yet active; its number."""
    model.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in model.glob("[0-9]*") if p.name.isdigit()), default=0) + 1
    card["version"] = str(number)
    (staged / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    text = re.sub(r'(?m)^name: ".*"$', f'name: "{name}"', (template / "config.pbtxt").read_text())
    found = active(model)
    staged.rename(model / str(number))
    write_whole(model / "config.pbtxt", text)
    allow(model, [int(found["version"])] if found else [number])
    return number


def activate(model: Path, number: int, triton: str | None) -> None:
    """Make a version the one that answers.

    With Triton's address: the new version is loaded beside the old one, services turn to it, then the
    old one is unloaded; where it cannot be loaded, everything stays as it was, and BuildError tells
    Triton's reason.
    """
    before = active(model)
    old = int(before["version"]) if before else None
    text = (model / str(number) / "card.json").read_text()
    if triton is None:
        allow(model, [number])
        write_whole(model / "model.json", text)
        return
    allow(model, {number} if old is None else {old, number})
    try:
        control.load(triton, model.name, [number])
    except BuildError:
        if old is not None:
            allow(model, [old])
            control.load(triton, model.name, [old])
        raise
    write_whole(model / "model.json", text)
    if old is not None and old != number:
        time.sleep(OVERLAP_SECONDS)
        allow(model, [number])
        control.load(triton, model.name, [number])


def rollback(model: Path, triton: str | None, to: int | None = None) -> int:
    """Make the version before the active one, or ``to``, active again; its number."""
    card = active(model)
    if card is None:
        raise BuildError(f"{model.name}: nothing is built in {model.parent}")
    there, now = versions(model), int(card["version"])
    earlier = [n for n in there if n < now]
    target = to if to is not None else earlier[-1] if earlier else None
    if target is None:
        raise BuildError(f"{model.name}: there is no version before {now} to go back to")
    if target not in there:
        raise BuildError(f"{model.name}: there is no version {target}; there is {', '.join(map(str, there))}")
    if target != now:
        activate(model, target, triton)
    return target


def prune(model: Path) -> None:
    """Delete all versions but the active one and the newest others."""
    card = active(model)
    if card is None:
        return
    others = [n for n in versions(model) if n != int(card["version"])]
    for number in others[: -(KEPT - 1)]:
        # Renamed first, so that half of a version is never taken for one.
        gone = model / f".gone-{number}-{os.getpid()}"
        (model / str(number)).rename(gone)
        shutil.rmtree(gone)


def discard(model: Path, number: int) -> None:
    """Delete a version that did not come to answer."""
    card = active(model)
    if card is None or int(card["version"]) != number:
        shutil.rmtree(model / str(number), ignore_errors=True)
