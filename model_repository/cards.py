"""Copy what the services read of the models: cards, tokenizers and the names of adapters; no weights.

    python cards.py MODELS INTO
    python cards.py --verify MODELS
    python cards.py --active MODELS

The services' pods run it before they start, in the image that has the models, so that both know the same version. The
chart has the models verified before it installs or upgrades. An image is built of the active versions alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READ = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def copy_cards(models: Path, into: Path) -> list[str]:
    """The models whose cards were copied, by name."""
    copied = []
    for card in sorted(models.glob("*/model.json")):
        version = json.loads(card.read_text())["version"]
        target = into / card.parent.name
        weights = target / str(version) / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        for name in READ:
            file = card.parent / str(version) / "weights" / name
            if file.is_file():
                shutil.copy(file, weights / name)
        for adapter in card.parent.glob("adapters/*/adapter.json"):
            (target / "adapters" / adapter.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(adapter, target / "adapters" / adapter.parent.name)
        shutil.copy(card, target / "model.json")  # last: a card says that all is there
        copied.append(card.parent.name)
    return copied


def faults(folder: Path, card: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a model: a file that is not the one that was verified, a figure that its bound refuses."""
    version = folder / str(card["version"])
    for name, wanted in (
        {f"weights/{name}": total for name, total in card["files"].items()} | card.get("code", {})
    ).items():
        if not (version / name).is_file():
            yield f"{name} is missing"
            continue
        with (version / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            yield f"{name} is not the file that was verified: its SHA-256 is {found[:12]}..., not {wanted[:12]}..."
    for figure in card["verification"]:
        value, bound, least = figure["value"], figure["bound"], figure["at_least"]
        if value < bound if least else value > bound:
            yield f"{figure['name']} is {value:.4f}, must be at {'least' if least else 'most'} {bound:.4f}"


def verify(models: Path) -> None:
    """Tell how each model is; end the process with 1 where one does not verify."""
    sound = True
    for path in sorted(models.glob("*/model.json")):
        card = json.loads(path.read_text())
        wrong = list(faults(path.parent, card))
        sound &= not wrong
        print(f"{path.parent.name} version {card['version']}: {'; '.join(wrong) or 'verified'}", flush=True)
    if not sound:
        sys.exit(1)


def keep_active(models: Path) -> None:
    """Delete the versions that are kept for a rollback, or until Triton is told of another."""
    for path in models.glob("*/model.json"):
        active = str(json.loads(path.read_text())["version"])
        for folder in path.parent.iterdir():
            if folder.name.isdigit() and folder.name != active:
                shutil.rmtree(folder)


def main() -> None:
    first, second = sys.argv[1:3]
    models = Path(second if first.startswith("--") else first)
    if not any(models.glob("*/model.json")):
        sys.exit(f"There are no models in {models}.")
    if first == "--verify":
        verify(models)
    elif first == "--active":
        keep_active(models)
    else:
        print("cards of", ", ".join(copy_cards(models, Path(second))))


if __name__ == "__main__":
    main()
