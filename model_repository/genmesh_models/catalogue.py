"""The catalogue: one entry a model, read from YAML and checked before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
PRECISIONS = {
    "cpu": {
        "embed": ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"),
        "rerank": ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"),
        "generate": ("fp32", "fp16", "bf16", "int8", "int4", "int4-awq"),
        "diffuse": ("fp32", "fp16", "int8", "int4"),
        "upscale": ("fp32", "fp16", "int8"),
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
    "cosine_mean": -1, "cosine_min": -1, "score_difference_max": 1, "ndcg_at_10": 1, "ndcg_over_late_interaction": -1, "top1_agreement": 0,
    "perplexity_ratio": 1e9, "psnr_db": 0, "ssim": -1, "prompt_accuracy": 0,
    "psnr_over_bicubic_db": -100, "sharpness_over_bicubic": 0,
}  # fmt: skip
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
# Keys that say how to build; the rest of an entry is what the model and the services read.
BUILD_KEYS = {"task", "source", "sha256", "precision", "verify", "gpu", "adapter", "corrector", "evaluate"}


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
    corrector: str | None = None  # a reranker's: a LoRA that makes a cross-encoder of the source, and its mix.json
    evaluate: str | None = None  # a starter's folder whose own measure belongs to the verification
    limits: Mapping[str, Any] = field(default_factory=dict)  # written into model.json

    @property
    def template(self) -> Path:
        """The folder with ``config.pbtxt`` and ``1/model.py``."""
        base = REPOSITORY / "gpu" if self.profile == "gpu" else REPOSITORY
        own = base / self.name
        return own if own.is_dir() else base / TEMPLATES[self.task]

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
    special = facts.pop("gpu", None) or {}
    if not isinstance(special, dict):
        raise fault("gpu must be a mapping of what differs there")
    if profile == "gpu":
        facts |= special
    for key in ("task", "source", "precision"):
        if not isinstance(facts.get(key), str):
            raise fault(f"{key} is missing")
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
    if not all(isinstance(v, str) and re.fullmatch(r"[0-9a-f]{64}", v) for v in sums.values()):
        raise fault("sha256 must have 64 hexadecimal digits, for one file or for each")
    return Entry(
        name, task, os.environ.get(source_variable(name)) or facts["source"], precision, profile, sums,
        facts.get("verify") or {}, facts.get("adapter"), facts.get("corrector"),
        facts.get("evaluate"),
        {key: value for key, value in facts.items() if key not in BUILD_KEYS},
    )  # fmt: skip


def read(path: Path, profile: str = "cpu") -> dict[str, Entry]:
    """All entries of a catalogue, by name, in its order."""
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as failure:
        raise BuildError(f"{path} cannot be read: {failure.strerror}") from None
    except yaml.YAMLError as failure:
        raise BuildError(f"{path} is not YAML: {failure}") from None
    if not isinstance(found, dict) or not found:
        raise BuildError(f"{path} lists no model")
    return {name: entry_of(str(name), facts, profile, path.name) for name, facts in found.items()}


def append(path: Path, name: str, facts: dict[str, Any]) -> None:
    """Write a new entry at the end; what stands there, comments too, stays as it is."""
    if name in read(path):
        raise BuildError(f"{name}: {path.name} has a model of that name already")
    entry_of(name, facts, "cpu", path.name)
    text = path.read_text().rstrip("\n") + "\n\n" + yaml.safe_dump({name: facts}, sort_keys=False)
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def at_precision(entry: Entry, precision: str) -> Entry:
    """The same model in another precision, with no bound that could refuse it."""
    return replace(entry, precision=precision, verify=UNBOUNDED)
