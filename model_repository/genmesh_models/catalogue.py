"""The catalogue: one entry a model, read from YAML and checked before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import plugin
import yaml

from genmesh_models.errors import BuildError

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILES = ("cpu", "gpu")
# task: the folder whose config.pbtxt and model.py serve it, unless the model has a folder of its own.
TEMPLATES = {
    "embed": "embedder",
    "rerank": "reranker",
    "generate": "generator",
    "diffuse": "diffuser",
    "upscale": "upscaler",
}
FLOATS = ("fp32", "fp16", "bf16")
# What each precision is stands in models.yaml.
PRECISIONS = {
    "cpu": {
        "embed": (*FLOATS, "int8", "int8-weights", "int4-weights"),
        "rerank": (*FLOATS, "int8", "int8-weights", "int4-weights"),
        "generate": (*FLOATS, "int8", "int8-weights", "int4-weights", "int4-awq"),
        "diffuse": (*FLOATS, "int8", "int8-weights", "int4-weights"),
        "upscale": (*FLOATS, "int8", "int8-weights"),
    },
    "gpu": {
        "embed": ("fp32", "fp16"),
        "rerank": ("fp32", "fp16"),
        "generate": ("fp16", "bf16", "awq", "fp8"),
        "diffuse": ("fp32", "fp16"),
        "upscale": ("fp32", "fp16"),
    },
}
# Bounds that every figure keeps: for measuring precisions that nobody would serve.
UNBOUNDED = {
    "cosine_mean": -1, "cosine_min": -1, "score_difference_max": 1, "ndcg_at_10": 1, "top1_agreement": 0,
    "perplexity_ratio": 1e9, "psnr_db": 0, "ssim": -1, "prompt_accuracy": 0,
    "psnr_over_bicubic_db": -100, "sharpness_over_bicubic": 0,
}  # fmt: skip
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
# Keys that say how to build; the rest of an entry is what the model and the services read.
# What else an entry may say, by task, with what holds where it does not (None: the checkpoint's own, or the profile's).
LIMITS: dict[str, dict[str, float | None]] = {
    "embed": {"context_tokens": None},
    "rerank": {"context_tokens": None},
    "generate": {
        "context_tokens": None, "kv_cache_gigabytes": 1, "max_sequences": 64, "max_batched_tokens": 512, "max_waiting": 512,
        "max_adapters": 4, "max_adapter_rank": None, "prompt_lookup_tokens": 0, "stream_milliseconds": 25,
        "stream_messages": 640, "stream_interval": 2, "stream_interval_from": 8, "gpu_memory_utilization": None,
        "tensor_parallel_size": None,
    },
    "diffuse": {"default_steps": 20, "default_guidance_scale": 7.5, "max_pixels": 1048576, "max_waiting": 64},
    "upscale": {"max_pixels": 1048576, "tile": 256},
}  # fmt: skip
# What is right for a starter's weights only, and not for those that take their place.
TUNED = ("default_steps", "default_guidance_scale")
BUILD_KEYS = {"task", "source", "sha256", "precision", "inference", "verify", "gpu", "only", "adapter", "evaluate"}
INFERENCE = ("f32", "auto")


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue, for one profile."""

    name: str
    task: str
    source: str
    precision: str
    profile: str
    sha256: Mapping[str, str] = field(default_factory=dict)  # of the source's files, by name
    verify: Mapping[str, float] = field(default_factory=dict)  # other bounds than verification.py's
    adapter: str | None = None  # a LoRA that is merged into the source before anything else
    evaluate: str | None = None  # a starter's folder whose own measure belongs to the verification
    limits: Mapping[str, Any] = field(default_factory=dict)  # written into model.json
    inference: str = "f32"  # what a CPU computes in, or "auto": bfloat16 if the building machine has it
    reference: str | None = None  # the full-precision source, where the profile gpu takes one that is quantized already

    @property
    def template(self) -> Path:
        """The folder with ``config.pbtxt`` and ``1/model.py``."""
        base = REPOSITORY / "gpu" if self.profile == "gpu" else REPOSITORY
        own = base / self.name
        return own if (own / "config.pbtxt").is_file() else base / TEMPLATES[self.task]

    @property
    def hints(self) -> dict[str, str]:
        """The part of the card that says in which precision a CPU computes (``shared/plugin.py``); a GPU's has none."""
        if self.profile == "gpu":
            return {}
        return {"inference_precision": "bf16" if self.inference == "auto" and plugin.has_bfloat16() else "f32"}

    @property
    def overridden(self) -> bool:
        return bool(os.environ.get(source_variable(self.name)))


def source_variable(name: str) -> str:
    """The environment variable that takes the place of an entry's source."""
    return f"GENMESH_{name.upper().replace('-', '_')}_SOURCE"


def entry_of(name: str, facts: Any, profile: str, where: str) -> Entry:
    """The checked entry; BuildError names the key at fault."""

    def fault(text: str) -> BuildError:
        return BuildError(f"{name}: {text} (in {where})")

    if not NAME.fullmatch(name):
        raise fault("a model's name has 1 to 63 lower-case letters, digits, '_' or '-', and begins with a letter")
    if not isinstance(facts, dict):
        raise fault("must be a mapping with task, source and precision")
    facts = dict(facts)
    plain = facts.get("source")
    special = facts.pop("gpu", None) or {}
    if not isinstance(special, dict):
        raise fault("gpu must be a mapping of what differs there")
    if profile == "gpu":
        facts |= special
        # What only a CPU has needs no word of what a GPU takes instead.
        task, precision = str(facts.get("task")), facts.get("precision")
        if precision in PRECISIONS["cpu"].get(task, ()) and precision not in PRECISIONS["gpu"][task]:
            facts["precision"] = "fp16"
    for key in ("task", "source", "precision"):
        if not isinstance(facts.get(key), str):
            known = BUILD_KEYS.union(*LIMITS.values())
            strange = [str(other) for other in facts if other not in known]
            raise fault(f"{key} is missing" + (f"; there is {', '.join(strange)} instead" if strange else ""))
    task, precision = facts["task"], facts["precision"]
    if task not in TEMPLATES:
        raise fault(f"task {task!r} is not known; there is {', '.join(TEMPLATES)}")
    if precision not in PRECISIONS[profile][task]:
        raise fault(
            f"precision {precision!r} is not supported for {task} on a {profile}; "
            f"there is {', '.join(PRECISIONS[profile][task])}"
        )
    sums = facts.get("sha256") or {}
    if isinstance(sums, str):
        sums = {"model.safetensors": sums}
    if not isinstance(sums, dict) or not all(
        isinstance(v, str) and re.fullmatch(r"[0-9a-f]{64}", v) for v in sums.values()
    ):
        raise fault("sha256 must have 64 hexadecimal digits, for one file or for each")
    bounds = facts.get("verify") or {}
    if not isinstance(bounds, dict) or not all(isinstance(bound, int | float) for bound in bounds.values()):
        raise fault("verify must be a mapping of figures to their bounds")
    if unknown := [str(key) for key in bounds if key not in UNBOUNDED]:
        raise fault(f"verify: there is no figure {', '.join(unknown)}; there is {', '.join(UNBOUNDED)}")
    source = given(os.environ.get(source_variable(name), ""))
    limits = {key: value for key, value in facts.items() if key not in BUILD_KEYS}
    if source:
        limits = {key: value for key, value in limits.items() if key not in TUNED}
    for key, value in limits.items():
        if key not in LIMITS[task]:
            raise fault(f"there is no {key}; for {task} there is {', '.join(sorted(BUILD_KEYS | set(LIMITS[task])))}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
            raise fault(f"{key} must be a number that is not negative")
    inference = facts.get("inference", "auto" if precision == "bf16" and profile == "cpu" else "f32")
    if inference not in INFERENCE:
        raise fault(f"inference must be one of {', '.join(INFERENCE)}")
    if facts.get("adapter") is not None and task != "generate":
        raise fault("an adapter is merged into a generator's source, and into no other")
    if facts.get("only", profile) not in PROFILES:
        raise fault(f"only must be one of {', '.join(PROFILES)}")
    reference = plain if profile == "gpu" and "source" in special and not source else None
    defaults = {key: value for key, value in LIMITS[task].items() if value is not None}
    return Entry(
        name, task, source or facts["source"], precision, profile, sums, bounds, facts.get("adapter"),
        facts.get("evaluate"), defaults | limits, inference, reference,
    )  # fmt: skip


def given(source: str) -> str:
    """A source that someone typed: a folder or file is meant from where they are."""
    there = not source.startswith(("package:", "hub:")) and source and Path(source).exists()
    return str(Path(source).resolve()) if there else source


class Once(yaml.SafeLoader):
    """YAML in which no mapping has a key twice: of two models of one name the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands there twice, again in line {line}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path, profile: str = "cpu") -> dict[str, Entry]:
    """A profile's entries of a catalogue, by name, in its order; those of ``only`` the other are left out."""
    try:
        found = yaml.load(path.read_text(), Once)
    except OSError as failure:
        raise BuildError(f"{path} cannot be read: {failure.strerror}") from None
    except UnicodeDecodeError as failure:
        raise BuildError(f"{path} is not UTF-8: {failure.reason} at byte {failure.start}") from None
    except yaml.YAMLError as failure:
        raise BuildError(f"{path} is not YAML: {failure}") from None
    if not isinstance(found, dict) or not found:
        raise BuildError(f"{path} lists no model")
    return {
        name: entry_of(str(name), located(facts, path.parent), profile, path.name)
        for name, facts in found.items()
        if not isinstance(facts, dict) or facts.get("only") in (None, profile) or facts["only"] not in PROFILES
    }


def located(facts: Any, folder: Path) -> Any:
    """An entry whose source is a folder or file beside its catalogue, where that is not the repository's own."""
    if isinstance(facts, dict) and isinstance(facts.get("source"), str) and folder.resolve() != REPOSITORY:
        beside = folder / facts["source"]
        if not facts["source"].startswith(("package:", "hub:")) and beside.exists():
            return facts | {"source": str(beside.resolve())}
    return facts


def without(path: Path, name: str) -> dict[str, Entry]:
    """All entries of a catalogue that has none of that name yet."""
    there = read(path)
    if name in there | read(path, "gpu"):
        raise BuildError(f"{name}: {path.name} has a model of that name already")
    return there


def append(path: Path, name: str, facts: dict[str, Any]) -> None:
    """Write a new entry at the end; what stands there, comments too, stays as it is."""
    without(path, name)
    entry_of(name, facts, facts.get("only", "cpu"), path.name)
    text = path.read_text().rstrip("\n") + "\n\n" + yaml.safe_dump({name: facts}, sort_keys=False)
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def at_precision(entry: Entry, precision: str) -> Entry:
    """The same model in another precision, with no bound that could refuse it."""
    inference = "auto" if precision == "bf16" else entry.inference
    return replace(entry, precision=precision, inference=inference, verify=UNBOUNDED)
