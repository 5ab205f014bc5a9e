"""A model's folder in Triton's repository: versions side by side, one of them active.

    NAME/config.pbtxt     the template's, with the versions that Triton may load
    NAME/model.json       the active version's card, the version before it (previous_version), those that someone went
                          back from (rolled_back), and the one that Triton was last told of, where it is another
                          (served_version); services read it and look for a new one each second
    NAME/N/card.json      version N's card
    NAME/N/model.py ...   what Triton runs, and weights/
    NAME/adapters/        LoRA adapters, by name

A version is made beside the repository and renamed into place when it is whole, so Triton never sees half of one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from genmesh_models import control, sources
from genmesh_models.errors import BuildError

# Services look for a new card each second; for so long both versions answer.
OVERLAP_SECONDS = 4.0


def versions(model: Path) -> list[int]:
    """The versions on the disk, oldest first."""
    return sorted(int(p.name) for p in model.glob("[0-9]*") if p.name.isdigit() and (p / "card.json").is_file())


def active(model: Path) -> dict[str, Any] | None:
    """The active version's card."""
    path = model / "model.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as failure:
        raise BuildError(
            f"{path} is damaged: {failure}; put the card.json of one of its versions in its place"
        ) from None


def rolled_back(model: Path) -> dict[int, str]:
    """The versions on the disk that someone went back from, with what each was built of."""
    gone_back = (active(model) or {}).get("rolled_back", ())
    return {n: str(card_of(model, n).get("build_key", "")) for n in versions(model) if n in gone_back}


def card_of(model: Path, number: int) -> dict[str, Any]:
    """A version's card, whether it is active or not."""
    path = model / str(number) / "card.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as failure:
        raise BuildError(f"{path} is damaged: {failure}; delete {path.parent}, and build it again") from None
    return found


def changed(model: Path, card: dict[str, Any]) -> list[str]:
    """A version's files that are not what its build wrote, by their paths in the version's folder."""
    version = model / str(card["version"])
    wanted = {f"weights/{name}": total for name, total in card["files"].items()} | card.get("code", {})
    now = {f"weights/{name}": total for name, total in sources.checksums(version / "weights").items()}
    now |= {name: sources.sha256(version / name) for name in card.get("code", ()) if (version / name).is_file()}
    return sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name))


def intact(model: Path, card: dict[str, Any]) -> bool:
    return (model / str(card["version"]) / "card.json").is_file() and not changed(model, card)


def waiting(model: Path, key: str) -> dict[str, Any] | None:
    """The card of a version that was built of ``key``, but for which nobody came to activate it: its command was broken
    off."""
    now = int((active(model) or {"version": 0})["version"])
    back = rolled_back(model)
    cards = (card_of(model, number) for number in versions(model) if number > now and number not in back)
    return next((card for card in cards if card.get("build_key") == key), None)


def write_whole(path: Path, text: str) -> None:
    """So that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def move(source: Path, target: Path) -> None:
    """Rename a folder. Into another file system (a repository on a volume of its own) it is copied under a hidden name
    first, and so is there as a whole or not at all."""
    try:
        source.rename(target)
    except OSError as failure:
        if failure.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".{target.name}.new")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(source, copy)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        copy.rename(target)
        shutil.rmtree(source)


def allow(model: Path, numbers: Iterable[int], text: str | None = None) -> None:
    """Let Triton load these versions and no others; ``text``: another configuration than what stands there."""
    path = model / "config.pbtxt"
    listed = ", ".join(map(str, sorted(numbers)))
    text = re.sub(r"\nversion_policy \{.*\}\n", "\n", text or path.read_text()).rstrip("\n")
    write_whole(path, f"{text}\nversion_policy {{ specific {{ versions: [ {listed} ] }} }}\n")


def place(staged: Path, template: Path, model: Path, name: str, card: dict[str, Any]) -> int:
    """Rename a whole version folder into place, not yet active; its number."""
    model.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in model.glob("[0-9]*") if p.name.isdigit()), default=0) + 1
    card["version"] = str(number)
    (staged / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    text = re.sub(r'(?m)^name: ".*"$', f'name: "{name}"', (template / "config.pbtxt").read_text())
    found = active(model)
    # First, so that a version never stands there without it.
    allow(model, [int(found["version"])] if found else [number], text)
    move(staged, model / str(number))
    return number


def activate(model: Path, number: int, triton: str | None) -> None:
    """Make a version the one that answers; a newer one than it is from then on one that someone went back from.

    With Triton's address: the new version is loaded beside what it serves, services turn to it, then the
    others are unloaded; where it cannot be loaded, everything stays as it was, and NotLoaded tells
    Triton's reason. Without: services turn to it once Triton has it.
    """
    before = active(model)
    old = int(before["version"]) if before else None
    back = set((before or {}).get("rolled_back", ())) - {number}
    card = card_of(model, number)
    if before and old == number:
        card["previous_version"] = before.get("previous_version")
    elif old is not None and old > number:
        back.add(old)
    elif before:  # none goes back to one that is damaged
        card["previous_version"] = old if intact(model, before) else before.get("previous_version")
    card["rolled_back"] = sorted(back & set(versions(model)))
    if triton is None:
        card["served_version"] = (before or {}).get("served_version", old)
    text = json.dumps({key: value for key, value in card.items() if value is not None}, indent=2) + "\n"
    if triton is None:
        allow(model, [number])
        write_whole(model / "model.json", text)
        return
    # It was perhaps not told of the active one.
    served = sound(model, control.loaded(triton, model.name))
    configured = (model / "config.pbtxt").read_text()
    try:
        allow(model, {number, *served})
        control.load(triton, model.name, [number])
    except BaseException:
        if served:
            allow(model, served)
            with suppress(BuildError):
                control.load(triton, model.name, sorted(served))
        write_whole(model / "config.pbtxt", configured)
        raise
    write_whole(model / "model.json", text)
    if served - {number}:
        leave(model, number, triton)


def sound(model: Path, numbers: set[int]) -> set[int]:
    """Those of some versions that Triton could load again."""
    return {n for n in numbers & set(versions(model)) if intact(model, card_of(model, n))}


def settle(model: Path, triton: str) -> None:
    """Have Triton serve the active version and no other, where it does not: what was activated without it."""
    card = active(model)
    if card is None:
        return
    number = int(card["version"])
    loaded = control.loaded(triton, model.name)
    if loaded == {number}:
        allow(model, [number])
    else:
        beside = sound(model, loaded - {number})
        try:
            allow(model, {number, *beside})
            control.load(triton, model.name, [number])
        finally:
            allow(model, [number])
        if beside:
            leave(model, number, triton)
    if card.pop("served_version", None) is not None:
        write_whole(model / "model.json", json.dumps(card, indent=2) + "\n")


def leave(model: Path, number: int, triton: str) -> None:
    """Have Triton serve a version that it has loaded alone, once services turned to it."""
    time.sleep(OVERLAP_SECONDS)
    allow(model, [number])
    control.load(triton, model.name, [number])


def rollback(model: Path, triton: str | None, to: int | None = None) -> int:
    """Make the version before the active one, or ``to``, active again; its number."""
    card = active(model)
    if card is None:
        raise BuildError(f"{model.name}: nothing is built in {model.parent}")
    there, now = versions(model), int(card["version"])
    back = rolled_back(model)
    earlier = [n for n in there if n < now and n not in back]
    previous = card.get("previous_version")
    target = to if to is not None else previous if previous in there else earlier[-1] if earlier else None
    if target is None:
        raise BuildError(f"{model.name}: there is no version before {now} to go back to")
    if target not in there:
        raise BuildError(f"{model.name}: there is no version {target}; there is {', '.join(map(str, there))}")
    if target != now:
        if wrong := changed(model, card_of(model, target)):
            others = ", ".join(str(n) for n in there if n not in (target, now)) or "no other"
            raise BuildError(
                f"{model.name}: version {target} is damaged: {', '.join(wrong)} is not what its build wrote; beside it "
                f"and the active {now} there is {others} (--to)"
            )
        activate(model, target, triton)
    elif triton is not None:
        settle(model, triton)
    return target


def note(model: Path, facts: dict[str, Any]) -> None:
    """Add what was measured of the active version to its cards."""
    card = active(model)
    assert card is not None
    for path in (model / card["version"] / "card.json", model / "model.json"):
        write_whole(path, json.dumps(json.loads(path.read_text()) | facts, indent=2) + "\n")


def prune(model: Path) -> None:
    """Delete all versions but the active one, the one that a rollback goes to, or the newest other that is intact, and
    the one that Triton was last told of."""
    card = active(model)
    if card is None:
        return
    others = [n for n in versions(model) if n != int(card["version"])]
    previous, served = card.get("previous_version"), card.get("served_version")
    newest = (n for n in reversed(others) if intact(model, card_of(model, n)))
    kept = previous if previous in others else next(newest, None)
    for number in others:
        if number in (kept, served):
            continue
        # Renamed first, so that half of a version is never taken for one.
        gone = model / f".gone-{number}-{os.getpid()}"
        (model / str(number)).rename(gone)
        shutil.rmtree(gone)


def discard(model: Path, number: int) -> None:
    """Delete a version that did not come to answer."""
    card = active(model)
    if card is None or int(card["version"]) != number:
        shutil.rmtree(model / str(number), ignore_errors=True)
    if card is None and not versions(model):  # Triton would look for a version that is not there
        shutil.rmtree(model, ignore_errors=True)
