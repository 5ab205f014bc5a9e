"""The table of models and precisions in docs/models.md, between its two marks."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError

BEGIN, END = "<!-- models:begin (written by genmesh-models report) -->", "<!-- models:end -->"
INFERENCE_BEGIN = "<!-- inference:begin (written by genmesh-models report-bfloat16) -->"
INFERENCE_END = "<!-- inference:end -->"
LABELS = {
    "cosine_mean": "cosine {:.4f}",
    "cosine_min": "least {:.4f}",
    "score_difference_max": "score off by at most {:.3f}",
    "ndcg_at_10": "nDCG@10 {:.4f}",
    "top1_agreement": "top-1 agreement {:.1%}",
    "perplexity_ratio": "x {:.4f}",
    "psnr_db": "PSNR {:.1f} dB",
    "ssim": "SSIM {:.4f}",
    "psnr_over_bicubic_db": "PSNR {:+.2f} dB against bicubic",
    "sharpness_over_bicubic": "sharpness x {:.2f} of bicubic",
    "prompt_accuracy": "prompts right {:.1%}",
}


def row(card: dict[str, Any], bounds: Mapping[str, float], *, served: bool) -> str:
    """One line of the table; the precision that is served in bold, and what breaks the catalogue's ``bounds``."""
    figures = []
    for found in card["verification"]:
        text = LABELS[found["name"]].format(found["value"])
        if found["name"] == "ndcg_at_10":
            text += f" (full precision {found['reference']:.4f})"
        if found["name"] == "perplexity_ratio":
            ours = found["value"] * found["reference"]
            text = f"perplexity {ours:.2f} (full precision {found['reference']:.2f}, x {found['value']:.4f})"
        figures.append(text)
    if broken := [f["name"] for f in card["verification"] if not verification.passes(verification.held(f, bounds))]:
        figures.append(f"refused for its {' and '.join(broken)} unless `verify` allows it")
    speed = f"{card['speed']:,.0f}" if card["speed"] >= 100 else f"{card['speed']:.3g}"
    precision = f"**{card['precision']}**" if served else card["precision"]
    return (
        f"| {card['name']} | {precision} | {', '.join(figures)} | {speed} {card['speed_unit']} "
        f"| {card['memory_bytes'] / 2**20:.0f} MiB |"
    )


def agreement(task: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    """How alike a model's outputs are in float32 and in bfloat16 (``measure.py`` has their shapes)."""
    if task == "embed":
        return f"least cosine {float((ours * theirs).sum(1).min()):.5f}"
    if task == "rerank":
        return f"scores differ by at most {float(np.abs(ours - theirs).max()):.4f}"
    if task == "generate":
        return f"{int((ours == theirs).sum())} of {len(ours)} greedy answers the same"
    return f"PSNR {verification.psnr(ours, theirs):.1f} dB"


def inference_row(entry: Entry, figures: Mapping[str, dict[str, Any]], alike: str) -> str:
    """What bfloat16 gains a served model: ``figures`` are what was measured in "f32" and in "bf16"."""
    f32, bf16 = (figures[precision]["speed"] for precision in ("f32", "bf16"))
    return f"| {entry.name} | {entry.precision} | {f32:,.4g} {figures['f32']['speed_unit']} | {bf16:,.4g} | {bf16 / f32:.2f} | {alike} |"


def write_inference(document: Path, rows: list[str]) -> None:
    """The table of what bfloat16 gains on this machine, in place of the one that stands between its marks."""
    head = "| model | precision | in float32 | in bfloat16 | ratio | outputs of both |\n| --- | --- | --- | --- | --- | --- |"
    text = document.read_text()
    if INFERENCE_BEGIN not in text or INFERENCE_END not in text:
        raise BuildError(f"{document} has no place for the table: {INFERENCE_BEGIN} and {INFERENCE_END}")
    before, _, rest = text.partition(INFERENCE_BEGIN)
    _, _, after = rest.partition(INFERENCE_END)
    caption = f"Measured on {machine()}."
    document.write_text(
        f"{before}{INFERENCE_BEGIN}\n{caption}\n\n{head}\n" + "\n".join(rows) + f"\n{INFERENCE_END}{after}"
    )


def refused(entry: Entry, precision: str, why: str) -> str:
    return f"| {entry.name} | {precision} | not built: {' '.join(why.split())[:160]} | | |"


def machine() -> str:
    """The processor and its count, as the table's caption names them."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    flags = [
        f
        for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
        if f" {f}" in Path("/proc/cpuinfo").read_text()
    ]
    return f"{os.cpu_count()} x {names[0] if names else 'unknown'} ({', '.join(flags) or 'no vector extensions named'})"


def write(document: Path, rows: list[str], kept: Collection[str] = ()) -> None:
    """Put the table in place of the one that stands between the marks.

    ``kept``: models whose rows stay as they are; BuildError where they were measured on another machine.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise BuildError(f"{document} has no place for the table: {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    old = [line for line in table.splitlines() if line.startswith("|") and line.split()[1] in kept]
    caption = f"Measured on {machine()}."
    if old and caption not in table:
        raise BuildError(f"{document}: the rows that stay were measured on another machine; report all models")
    rows = old + rows
    head = "| model | precision | against full precision | speed | memory |\n| --- | --- | --- | --- | --- |"
    document.write_text(f"{before}{BEGIN}\n{caption}\n\n{head}\n" + "\n".join(rows) + f"\n{END}{after}")
