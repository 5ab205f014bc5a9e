"""Where the full-precision weights of a model are, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from genmesh_models.catalogue import REPOSITORY, Entry, source_variable
from genmesh_models.errors import BuildError


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): sha256(path) for path in files_below(folder)}


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BuildError(f"{path} is missing: is {path.parent} a checkpoint?")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as failure:
        raise BuildError(f"{path} is not JSON: {failure}") from None
    return found


def recipe(folder: str, name: str) -> ModuleType:
    """A module of a starter's recipe. Recipes name their own modules alike (``data``), so none stays imported."""
    path = (REPOSITORY / folder).resolve()
    spec = spec_from_file_location(f"{path.name}_{name}", path / f"{name}.py")
    if spec is None or spec.loader is None or not (path / f"{name}.py").is_file():
        raise BuildError(f"{path / name}.py cannot be loaded")
    own = {file.stem for file in path.glob("*.py")}
    others = {module: sys.modules.pop(module) for module in own & set(sys.modules)}
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path))
        for found in own & set(sys.modules):
            del sys.modules[found]
        sys.modules.update(others)
    return module


def package_folder(source: str) -> Path:
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BuildError(f"the Python package {package} is not installed")
    return Path(spec.origin).parent / inside


def from_hub(source: str, variable: str) -> Path:
    """Download ``hub:owner/name[@revision]``, or take it from the hub's cache on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError

    model, _, revision = source.removeprefix("hub:").partition("@")
    kinds = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=kinds))
    except GatedRepoError:
        raise BuildError(f"the hub gives {model} only to accounts that its owner admitted: set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise BuildError(f"{model} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise BuildError(f"the hub has no model {model}, or not for this account") from None
    except LocalEntryNotFoundError:
        raise BuildError(
            f"the model hub cannot be reached, and {model} is not in its cache here; "
            f"give a local folder with {variable}=/path/to/checkpoint"
        ) from None


def folder_of(entry: Entry) -> Path:
    """The folder with an entry's full-precision weights."""
    source = entry.source
    try:
        if source.startswith("package:"):
            folder = package_folder(source)
        elif source.startswith("hub:"):
            folder = from_hub(source, source_variable(entry.name))
        else:
            folder = (REPOSITORY / source).resolve()
    except BuildError as failure:
        raise BuildError(f"{entry.name}: {failure}") from None
    if not folder.is_dir():
        raise BuildError(f"{entry.name}: there is no folder {folder}")
    return folder


def check(entry: Entry, folder: Path) -> None:
    """BuildError where a file's checksum is not the catalogue's; nothing to check for an overridden source."""
    if entry.overridden:
        return
    for name, expected in entry.sha256.items():
        if not (folder / name).is_file():
            raise BuildError(f"{entry.name}: {folder / name} is missing")
        if (actual := sha256(folder / name)) != expected:
            raise BuildError(f"{entry.name}: {folder / name} has SHA-256 {actual}, not {expected}")


def check_room(entry: Entry, source: Path, target: Path) -> None:
    """BuildError where the disk cannot hold what a build writes: about three times the checkpoint."""
    need = 3 * sum(path.stat().st_size for path in files_below(source)) + 64 * 2**20
    free = shutil.disk_usage(target).free
    if free < need:
        raise BuildError(
            f"{entry.name}: the disk of {target} has {free // 2**20} MiB left; this build needs about {need // 2**20} MiB"
        )


def merged(entry: Entry, base: Path, into: Path) -> Path:
    """The checkpoint with the entry's LoRA merged in, as a folder of its own; the base where there is none."""
    if entry.adapter is None or entry.overridden:
        return base
    return with_adapter(entry, base, entry.adapter, into)


def with_adapter(entry: Entry, base: Path, folder: str, into: Path) -> Path:
    """The checkpoint with a LoRA of the repository merged in; a reranker's is of a cross-encoder."""
    adapter = (REPOSITORY / folder).resolve()
    if not adapter.is_dir():
        raise BuildError(f"{entry.name}: there is no adapter {adapter}")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    if entry.task == "rerank":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    whole = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    whole.save_pretrained(into)
    AutoTokenizer.from_pretrained(base).save_pretrained(into)
    return into
