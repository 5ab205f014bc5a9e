"""A build, step by step, in a process of its own: check, quantize, verify, place.

Everything is made in ``BUILDING/NAME``; a build that was broken off goes on after the last step that
it finished, as long as source, code and catalogue are the same. What a builder prints goes to
``BUILDING/NAME.log``. A version that was built on this machine before, for whatever repository, is copied from the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from genmesh_models import cache, sources, verification, versions
from genmesh_models.catalogue import REPOSITORY, Entry
from genmesh_models.errors import BuildError, ends_with_parent, sentence

STEPS = ("check", "quantize", "verify", "place")
# Other versions of these make other files of the same weights.
LIBRARIES = (
    "diffusers", "nncf", "openvino", "openvino-genai", "openvino-tokenizers", "optimum", "optimum-intel", "peft", "tokenizers",
    "torch", "transformers",
)  # fmt: skip
BUILDERS = {
    "embed": "encoders", "rerank": "encoders", "generate": "generators", "diffuse": "diffusers", "upscale": "upscalers",
}  # fmt: skip
SHARED = {
    "embed": ("encoder.py", "plugin.py", "tensors.py"),
    "rerank": ("encoder.py", "measured.py", "plugin.py", "ranker.py", "tensors.py"),
    "generate": ("adapters.py", "engine.py", "inbox.py", "measured.py", "plugin.py", "seq2seq.py", "tensors.py"),
    "diffuse": ("drawing.py", "inbox.py", "measured.py", "plugin.py", "tensors.py"),
    "upscale": ("plugin.py", "tensors.py"),
}
GPU_SHARED = {
    "embed": ("shared/projection.py", "shared/tensors.py", "gpu/shared/torch_device.py", "gpu/shared/torch_encoder.py"),
    "rerank": (
        "shared/projection.py",
        "shared/ranker.py",
        "shared/tensors.py",
        "gpu/shared/torch_device.py",
        "gpu/shared/torch_encoder.py",
    ),
    "generate": (),  # Triton's vLLM backend brings its code
    "diffuse": (
        "shared/drawing.py",
        "shared/inbox.py",
        "shared/measured.py",
        "shared/tensors.py",
        "gpu/shared/torch_device.py",
    ),
    "upscale": ("shared/tensors.py", "gpu/shared/torch_device.py", "starter/upscaler/network.py"),
}
CACHED_BYTES = 2 * 2**30  # a larger build is not kept twice
WAIT_SECONDS = 4 * 3600.0  # for another build of the same model
Report = Callable[[str], None]  # hears each of STEPS, or one with a word on it: "check: 34 MB downloaded"


def shared_of(entry: Entry) -> list[Path]:
    """The modules that lie beside a built model's own code."""
    names = GPU_SHARED[entry.task] if entry.profile == "gpu" else tuple(f"shared/{n}" for n in SHARED[entry.task])
    return [REPOSITORY / name for name in names]


def code_of(entry: Entry) -> list[Path]:
    """The files that a built model depends on, beside its weights."""
    own = REPOSITORY / "genmesh_models"
    builders = [
        own / f"{BUILDERS[entry.task]}.py",
        *([own / "gpu.py", own / "awq.py"] if entry.profile == "gpu" else []),
    ]
    if BUILDERS[entry.task] == "encoders":
        builders += [own / "colbert.py", REPOSITORY / "shared" / "projection.py"]
    common = [own / name for name in ("build.py", "export.py", "verification.py", "texts.py")]
    common += [REPOSITORY / "retrieval.jsonl", REPOSITORY / "ranking.py"]
    return [*builders, *common, *sources.files_below(entry.template), *shared_of(entry)]


def build_key(entry: Entry, weights: dict[str, str]) -> str:
    """What a build depends on, as one SHA-256; the bounds of its verification are no part."""
    total = hashlib.sha256(json.dumps(weights, sort_keys=True).encode())
    for path in code_of(entry):
        total.update(path.name.encode() + path.read_bytes())
    facts = {key: value for key, value in asdict(entry).items() if key not in ("verify", "sha256", "source")}
    facts |= entry.hints
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            facts[library] = metadata.version(library)
    total.update(json.dumps(facts, sort_keys=True).encode())
    return total.hexdigest()


@contextmanager
def alone(model: Path, report: Report = lambda step: None) -> Iterator[None]:
    """Only one command at a time changes a model's versions; others wait for it, and may find that nothing is left to do."""
    name, path = model.name, model.parent.parent / "building" / f"{model.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + WAIT_SECONDS
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise BuildError(f"{name}: another build of it has been running for {WAIT_SECONDS:.0f} s") from None
                report("check: waits for another build of it")
                time.sleep(1)
        yield


def builder_of(entry: Entry) -> ModuleType:
    """What builds an entry's task for its profile: ``check(source, entry)`` and ``build(source, out, entry)``."""
    return import_module("genmesh_models." + ("gpu" if entry.profile == "gpu" else BUILDERS[entry.task]))


def build(entry: Entry, into: Path, report: Report) -> dict[str, Any] | None:
    """Make a new version of one model, not yet active; its card, or None where the active one is up to date, or someone
    went back from just this build."""
    report("check")
    source = sources.folder_of(entry, lambda text: report(f"check: {text}"))
    sources.check(entry, source)
    weights = sources.weights_of(entry, source)
    key = build_key(entry, weights)
    model = into / entry.name
    card = versions.active(model)
    if card is not None and card.get("profile", entry.profile) != entry.profile:
        raise BuildError(f"{entry.name}: {into} is for the profile {card['profile']}; --into another folder")
    if card is not None and card.get("build_key") == key and versions.intact(model, card):
        bounds = [verification.held(f, entry.verify) for f in card["verification"]]
        check_figures(entry, bounds)
        return None
    if card is not None and key in versions.rolled_back(model).values():
        return None
    if (placed := versions.waiting(model, key)) is not None and versions.intact(model, placed):
        at_its_place(entry, model, int(placed["version"]))
        return placed
    sources.check_whole(entry.name, source)
    builder_of(entry).check(source, entry)
    building = into.parent / "building"
    staging = building / entry.name
    shelf = cache.Shelf("models", entry.name)
    if (staging / "key").is_file() and (staging / "key").read_text() == key:
        print("goes on with a build that was broken off", flush=True)
    else:
        shutil.rmtree(staging, ignore_errors=True)
        if copied(shelf, key, staging):
            print("it was built on this machine before", flush=True)
        else:
            staging.mkdir(parents=True)
            (staging / "key").write_text(key)
    sources.check_room(entry, source, building)
    facts, made = quantized(entry, source, staging, report)
    if made and sum(path.stat().st_size for path in sources.files_below(staging)) < CACHED_BYTES:
        with suppress(OSError):  # no room, or no folder that may be written to: then it is built again
            shelf.put(key, staging)
    facts["verification"] = [verification.held(f, entry.verify) for f in facts["verification"]]
    report("verify")
    check_figures(entry, facts["verification"])
    report("place")
    done = {
        "name": entry.name,
        "task": entry.task,
        "profile": entry.profile,
        "precision": entry.precision,
        "source": entry.source,
        "source_sha256": weights,
        "build_key": key,
    }
    number = versions.place(staging / "version", entry.template, model, entry.name, dict(entry.limits) | facts | done)
    at_its_place(entry, model, number)
    shutil.rmtree(staging)
    found: dict[str, Any] = json.loads((model / str(number) / "card.json").read_text())
    return found


def copied(shelf: cache.Shelf, key: str, staging: Path) -> bool:
    """Whether the cache had the build; a cache that cannot be read or written has none."""
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        return shelf.copy(key, staging)
    except OSError as failure:
        print(f"the cache {shelf.folder} is not used: {failure}", flush=True)
        shutil.rmtree(staging, ignore_errors=True)
        return False


def at_its_place(entry: Entry, model: Path, number: int) -> None:
    """Tell a placed version where it is; once more does no harm."""
    if entry.profile == "gpu" and entry.task == "generate":
        import_module("genmesh_models.gpu").settle(model, number)


def check_figures(entry: Entry, figures: list[verification.Figure]) -> None:
    if failed := [f for f in figures if not verification.passes(f)]:
        raise BuildError("; ".join(f"{entry.name}: {verification.sentence(f)}" for f in failed))


def quantized(entry: Entry, source: Path, staging: Path, report: Report) -> tuple[dict[str, Any], bool]:
    """The facts of the version folder with weights and code, and whether they were made now or were there already."""
    version, kept = staging / "version", staging / "facts.json"
    out = version / "weights"
    facts: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    report("quantize")
    made = not facts
    if made:
        out.mkdir(parents=True, exist_ok=True)
        whole = sources.merged(entry, source, staging / "merged")
        facts = builder_of(entry).build(whole, out, entry)
        for mark in (*version.glob("*.exported"), *version.glob("*.calibrated")):
            mark.unlink()
        files = sources.checksums(out)
        facts["files"] = files
        facts["revision"] = revision_of(files, facts.get("inference_precision", ""))
        facts.setdefault("parameter_count", parameters_of(whole))
        for path in [*sources.files_below(entry.template / "1"), *shared_of(entry)]:
            if not (version / path.name).exists():  # a builder may have written vLLM's model.json already
                shutil.copy(path, version)
        facts["code"] = {path.name: sources.sha256(path) for path in version.glob("*.py")}
        versions.write_whole(kept, json.dumps(facts))
        shutil.rmtree(staging / "merged", ignore_errors=True)
    return facts, made


def revision_of(files: dict[str, str], inference_precision: str) -> str:
    """12 digits of the SHA-256 over the files' checksums; the same weights computed in bfloat16 are another revision."""
    digits = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    return f"{digits}-bf16" if inference_precision == "bf16" else digits


def measured(version: Path, task: str, *computed: str) -> dict[str, Any]:
    """Memory and speed of a built model; ``computed``: another inference precision, and a file for its outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "genmesh_models.measure", str(version), task, *computed], capture_output=True,
        text=True, check=False, preexec_fn=ends_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"the built model does not run: {done.stderr.strip()[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parameters_of(folder: Path) -> int:
    """The number of parameters in a folder's safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "np") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                count = 1
                for size in tensors.get_slice(key).get_shape():
                    count *= size
                total += count
    return total


def run_apart(entry: Entry, into: Path, report: Report) -> dict[str, Any] | None:
    """``build`` in a process of its own: its prints go to a log, its crash is only its own. The caller is ``alone``."""
    log = into.parent / "building" / f"{entry.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "genmesh_models.build", json.dumps(asdict(entry)), str(into), str(write)],
            stdout=output, stderr=subprocess.STDOUT, pass_fds=[write],
            env=os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
    os.close(write)
    outcome: dict[str, Any] = {}
    try:
        with os.fdopen(read) as events:
            for line in events:
                outcome = json.loads(line)
                if "step" in outcome:
                    report(outcome["step"])
        child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    if "error" in outcome:
        raise BuildError(outcome["error"])
    if "card" not in outcome:
        reason = "it was killed; was there too little memory?" if child.returncode == -9 else f"see {log}"
        raise BuildError(f"{entry.name}: the build ended with {child.returncode}: {reason}")
    card: dict[str, Any] | None = outcome["card"]
    return card


def main() -> None:
    """The other side of ``run_apart``."""
    ends_with_parent()
    warnings.filterwarnings("ignore")  # of tracing; they say nothing about the result
    entry, into = Entry(**json.loads(sys.argv[1])), Path(sys.argv[2])
    with os.fdopen(int(sys.argv[3]), "w", buffering=1) as events:

        def say(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")

        try:
            say({"card": build(entry, into, lambda step: say({"step": step}))})
        except BuildError as failure:
            say({"error": str(failure) if str(failure).startswith(f"{entry.name}:") else f"{entry.name}: {failure}"})
        except Exception as failure:  # libraries raise what they like about a checkpoint; the log has the whole of it
            with suppress(OSError):
                traceback.print_exc()
            log = into.parent / "building" / f"{entry.name}.log"
            text = sentence(failure, (into, into.parent))
            say({"error": f"{entry.name}: {entry.source} cannot be built: {text} (more in {log})"})


if __name__ == "__main__":
    main()
