"""Where the full-precision weights of a model are, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from genmesh_models.catalogue import REPOSITORY, Entry, source_variable
from genmesh_models.errors import BuildError


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # what PEFT writes and reads
WORD_VECTORS = ("vectors.txt", "glove*.txt", "*.vec")  # token tables as text


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
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # no parent package; no name
        spec = None
    if spec is None or spec.origin is None:
        raise BuildError(f"the Python package {package!r} is not installed")
    return Path(spec.origin).parent / inside


@contextmanager
def watched(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Tell each second how much of a download has come; the hub's own bars know their files only."""
    done = threading.Event()

    def watch() -> None:
        before = size(folder)
        while not done.wait(1):
            if (now := size(folder)) > before:
                say(f"{(now - before) / 1e6:.0f} MB downloaded")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def size(folder: Path) -> int:
    """Bytes of a folder's own files; some may go away meanwhile."""
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


GGUF = ".gguf"
# What repositories hold of the same weights in another form, or what is not served.
TWICE = ["consolidated*", "*.fp16.safetensors", "*non_ema*", "safety_checker/*", "onnx/*", "openvino/*"]


def from_hub(source: str, variable: str, say: Callable[[str], None]) -> Path:
    """Download ``hub:owner/name[@revision]``, or take it from the hub's cache on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from requests import RequestException

    model, _, revision = source.removeprefix("hub:").partition("@")
    texts = ["*.json", "*.txt", "*.vec", "*.model", "*.jinja", "artifact.metadata"]
    blobs = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs"

    def download(*kinds: str, **options: bool) -> Path:
        found = snapshot_download(
            model, revision=revision or None, allow_patterns=[*texts, *kinds], ignore_patterns=TWICE, **options
        )
        return Path(found)

    try:
        with watched(blobs, say):
            pipeline = (download() / "model_index.json").is_file()
            # Beside a pipeline's parts often stands the whole of it in one file.
            return download("*/*.safetensors" if pipeline else "*.safetensors")
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
    except (
        RequestException
    ) as failure:  # a proxy or a certificate, which the hub's library does not take for a missing net
        with suppress(LocalEntryNotFoundError):
            return download("*.safetensors", local_files_only=True)
        raise BuildError(
            f"the model hub cannot be reached ({type(failure).__name__}), and {model} is not in its cache"
        ) from None
    except HFValidationError:
        raise BuildError(f"{model!r} is no model's name on the hub: hub:OWNER/NAME[@REVISION]") from None
    except HfHubHTTPError as failure:
        raise BuildError(f"the hub does not give {model}: {str(failure).splitlines()[0]}") from None


def path_of(entry: Entry, say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder or GGUF file that an entry's source names; ``say`` hears of a download."""
    source = entry.source
    try:
        if source.startswith("package:"):
            path = package_folder(source)
        elif source.startswith("hub:"):
            path = from_hub(source, source_variable(entry.name), say)
        else:
            path = (REPOSITORY / source).resolve()
    except BuildError as failure:
        raise BuildError(f"{entry.name}: {failure}") from None
    if path.suffix == GGUF and not path.is_file():
        raise BuildError(f"{entry.name}: there is no file {path}")
    if path.suffix != GGUF and not path.is_dir():
        raise BuildError(f"{entry.name}: there is no folder {path}")
    return path


def folder_of(entry: Entry, say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder with an entry's full-precision weights; ``say`` hears of what takes long."""
    path = path_of(entry, say)
    return from_gguf(entry, path, say) if path.suffix == GGUF else path


def from_gguf(entry: Entry, path: Path, say: Callable[[str], None]) -> Path:
    """The folder that a GGUF file was written out to, in the cache."""
    from genmesh_models import gguf_file
    from genmesh_models.cache import Shelf

    if entry.task != "generate":
        raise BuildError(f"{entry.name}: GGUF files are read for generators; this one's task is {entry.task}")
    key = hashlib.sha256((sha256(path) + sha256(Path(gguf_file.__file__))).encode()).hexdigest()

    def make(folder: Path) -> None:
        say(f"reads {path.name}")
        folder.mkdir()
        gguf_file.unpack(path, folder)

    try:
        return Shelf("checkpoints", path.stem).made(key, make)
    except BuildError as failure:
        raise BuildError(f"{entry.name}: {failure}") from None
    except OSError as failure:
        raise BuildError(f"{entry.name}: {path.name} cannot be written out: {failure}") from None


def tokenizer_of(name: str, folder: Path) -> Any:
    """A checkpoint's tokenizer; a SentencePiece model becomes the tokenizer.json that engines and services read."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as failure:
        last = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise BuildError(f"{name}: {folder} has no tokenizer that can be read: {last}") from None
    if not found.is_fast:
        raise BuildError(
            f"{name}: {folder} has no fast tokenizer (tokenizer.json), which the engine and the services read"
        )
    return found


def check(entry: Entry, folder: Path) -> None:
    """BuildError where a file's checksum is not the catalogue's; nothing to check for an overridden source."""
    if entry.overridden:
        return
    if entry.source.endswith(GGUF):
        folder = path_of(entry).parent
    for name, expected in entry.sha256.items():
        if not (folder / name).is_file():
            raise BuildError(f"{entry.name}: {folder / name} is missing")
        if (actual := sha256(folder / name)) != expected:
            raise BuildError(
                f"{entry.name}: {folder / name} has SHA-256 {actual}, not the catalogue's {expected}: it is another file, "
                "or damaged; get it again, or, where it is the one to be served, write its SHA-256 into the catalogue"
            )


def check_whole(name: str, folder: Path) -> None:
    """BuildError where one of a folder's safetensors files does not hold what its header says."""
    from safetensors import SafetensorError, safe_open

    for path in (path for path in files_below(folder) if path.suffix == ".safetensors"):
        try:
            with safe_open(path, "np"):
                pass
        except SafetensorError as failure:
            raise BuildError(
                f"{name}: {path} ({path.stat().st_size} bytes) is damaged or cut short: {failure}; get it again"
            ) from None


def check_room(entry: Entry, source: Path, target: Path) -> None:
    """BuildError where the disk cannot hold what a build writes: about three times the checkpoint."""
    need = 3 * sum(path.stat().st_size for path in files_below(source)) + 64 * 2**20
    free = shutil.disk_usage(target).free
    if free < need:
        raise BuildError(
            f"{entry.name}: the disk of {target} has {free // 2**20} MiB left; this build needs about {need // 2**20} MiB"
        )


def adapter_of(entry: Entry) -> Path | None:
    """The folder of the LoRA that is merged into an entry's source; None where there is none."""
    if entry.adapter is None or entry.overridden:
        return None
    adapter = (REPOSITORY / entry.adapter).resolve()
    if missing := [name for name in ADAPTER if not (adapter / name).is_file()]:
        raise BuildError(f"{entry.name}: the adapter {adapter} has no {missing[0]}")
    return adapter


def weights_of(entry: Entry, folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a model is built from: those of the source's folder, and of the merged LoRA's below adapter/."""
    adapter = adapter_of(entry)
    names = ADAPTER if adapter is not None else ()
    return checksums(folder) | {f"adapter/{name}": sha256(adapter / name) for name in names}


def merged(entry: Entry, base: Path, into: Path) -> Path:
    """The checkpoint with the entry's LoRA merged in, as a folder of its own; the base where there is none."""
    if (adapter := adapter_of(entry)) is None:
        return base
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    whole = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    whole.save_pretrained(into)
    AutoTokenizer.from_pretrained(base).save_pretrained(into)
    return into
