"""LoRA adapters beside a generator's versions: ``GENERATOR/adapters/NAME`` in PEFT's format, and ``adapter.json``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from genmesh_models import gpu, sources, versions
from genmesh_models.catalogue import NAME, Entry, source_variable
from genmesh_models.errors import BuildError

CONFIG, WEIGHTS = sources.ADAPTER
# PEFT's name of a low-rank factor's weight, with the layer that it is added to.
FACTOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")


def base_of(entry: Entry, name: str, into: Path) -> tuple[dict[str, Any], Path, dict[str, str]]:
    """The card of the version that answers, and the checkpoint that it was built from with its checksums; BuildError
    where no adapter called ``name`` can be served beside it."""
    if entry.task != "generate":
        raise BuildError(f"{entry.name}: adapters are for generators; this one's task is {entry.task}")
    if not NAME.fullmatch(name):
        raise BuildError(f"{name!r}: an adapter's name has 1 to 63 lower-case letters, digits, '_' or '-'")
    card = versions.active(into / entry.name)
    if card is None:
        raise BuildError(f"{entry.name}: build it first, so that the adapter can be served beside it")
    if card.get("encoder_decoder"):
        raise BuildError(f"{entry.name}: adapters are served for decoders only")
    if not card.get("max_adapters"):
        raise BuildError(f"{entry.name}: its max_adapters is 0, so no request could choose one")
    base = sources.folder_of(entry)
    sums = sources.weights_of(entry, base)
    if sums != card["source_sha256"]:
        raise BuildError(
            f"{entry.name}: version {card['version']} was built from other weights ({card['source']}) than {entry.source} has "
            f"now, so an adapter of these would not fit it; build it again, or set {source_variable(entry.name)}"
        )
    return card, base, sums


def staging(entry: Entry, name: str, into: Path) -> Path:
    """An empty folder beside the repository, where Triton does not see it."""
    folder = into.resolve().parent / "building" / f"{entry.name}-adapter-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def place(staged: Path, into: Path, card: dict[str, Any], facts: dict[str, Any]) -> Path:
    """Put a whole adapter in place of what has its name; its folder."""
    (staged / "adapter.json").write_text(json.dumps(facts, indent=2) + "\n")
    model = into / card["name"]
    target = model / "adapters" / facts["name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = model / f".adapter-{target.name}.old"  # not among the adapters
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        try:
            versions.move(staged, target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old)
    else:
        versions.move(staged, target)
    settle(model, card)
    return target


def settle(model: Path, card: dict[str, Any]) -> None:
    """Tell an engine that has a list of adapters of its own which there are."""
    if card["engine"] == "vllm":
        gpu.settle(model, int(card["version"]))


def names(model: Path) -> list[str]:
    """The adapters beside a model, whatever weights they were trained on."""
    return sorted(path.parent.name for path in model.glob("adapters/*/adapter.json"))


def remove(entry: Entry, name: str, into: Path) -> None:
    """Take an adapter away; BuildError where there is none of that name."""
    model = into / entry.name
    if name not in (there := names(model)):
        raise BuildError(f"{entry.name} has no adapter {name!r}; there is {', '.join(there) or 'none'}")
    gone = model / f".adapter-{name}.old"
    shutil.rmtree(gone, ignore_errors=True)
    (model / "adapters" / name).rename(gone)  # whole or not at all
    shutil.rmtree(gone)
    if (card := versions.active(model)) is not None:
        settle(model, card)


def add(entry: Entry, name: str, folder: Path, into: Path) -> Path:
    """Serve an adapter that PEFT wrote elsewhere; BuildError where it is not LoRA or does not fit the generator."""
    card, base, sums = base_of(entry, name, into)
    rank = checked(entry, folder, base)
    staged = staging(entry, name, into)
    for file in (WEIGHTS, CONFIG):
        shutil.copy(folder / file, staged)
    return place(staged, into, card, {"name": name, "rank": rank, "base_sha256": sums})


def checked(entry: Entry, folder: Path, base: Path) -> int:
    """The rank of an adapter that PEFT wrote; BuildError where it is not LoRA or does not fit the checkpoint ``base``."""
    config = sources.read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise BuildError(f"{folder} holds an adapter of type {config.get('peft_type')!r}; LORA is served")
    for key in ("use_dora", "modules_to_save", "trainable_token_indices"):
        if config.get(key):
            raise BuildError(f"{folder / CONFIG} says {key}, which is not served: only low-rank factors are")
    for key in ("alpha_pattern", "rank_pattern"):
        if config.get(key):
            raise BuildError(f"{folder / CONFIG} has a {key}: adapters of one rank and one alpha are served")
    if not all(isinstance(config.get(key), int | float) and config[key] > 0 for key in ("r", "lora_alpha")):
        raise BuildError(f"{folder / CONFIG} does not say r and lora_alpha, the adapter's rank and strength")
    if not (folder / WEIGHTS).is_file():
        raise BuildError(f"{folder / WEIGHTS} is missing")
    check_fit(entry, shapes(folder / WEIGHTS), shapes(*sorted(base.glob("*.safetensors"))), folder, config["r"])
    return int(config["r"])


def shapes(*files: Path) -> dict[str, list[int]]:
    """Of all tensors in safetensors files, by name."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for file in files:
        try:
            with safe_open(file, "np") as tensors:
                found |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as failure:
            raise BuildError(f"{file} is not a safetensors file: {failure}") from None
    return found


def check_fit(
    entry: Entry, factors: dict[str, list[int]], weights: dict[str, list[int]], folder: Path, rank: int
) -> None:
    """Each layer that the adapter changes is there, and has both factors of its size: A is (rank, in), B is (out, rank)."""
    if not factors:
        raise BuildError(f"{folder / WEIGHTS} holds no tensor")
    layers: dict[str, dict[str, list[int]]] = {}
    for name, shape in factors.items():
        if (match := FACTOR.fullmatch(name)) is None or len(shape) != 2:
            raise BuildError(f"{folder / WEIGHTS}: {name} is not a low-rank factor of a linear layer")
        layers.setdefault(match["layer"], {})[match["factor"]] = shape
    for layer, pair in layers.items():
        if set(pair) != {"A", "B"}:
            raise BuildError(f"{folder / WEIGHTS}: {layer} has no lora_{'B' if 'A' in pair else 'A'}")
        # Checkpoints differ in whether the body's name comes first.
        found = weights.get(f"{layer}.weight") or weights.get(f"{layer}.weight".partition(".")[2])
        if found is None:
            raise BuildError(f"{folder / WEIGHTS}: {entry.name} has no layer {layer}")
        (rank_in, inward), (outward, rank_out) = pair["A"], pair["B"]
        if rank_in != rank_out or rank_in != rank:
            raise BuildError(
                f"{folder / WEIGHTS}: {layer} has the ranks {rank_in} and {rank_out}, {CONFIG} says r = {rank}"
            )
        # GPT-2 keeps its weights the other way round, (in, out).
        if [outward, inward] not in (found, found[::-1]):
            raise BuildError(
                f"{folder / WEIGHTS}: {layer} is of {inward} to {outward}, which does not fit {entry.name}'s {found}"
            )
