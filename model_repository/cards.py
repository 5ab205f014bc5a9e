"""Copy what the services read of the models: cards, tokenizers and the names of adapters; no weights.

    python cards.py MODELS INTO

The services' pods run it before they start, in the image that has the models, so that both know the same version.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

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


if __name__ == "__main__":
    found = copy_cards(Path(sys.argv[1]), Path(sys.argv[2]))
    if not found:
        sys.exit(f"There are no models in {sys.argv[1]}.")
    print("cards of", ", ".join(found))
