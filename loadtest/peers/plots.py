"""Draw the plots of the measured suites.

python plots.py RESULTS.json FOLDER   (in the peers' environment)
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def by_clients(generation: dict[str, Any], out: Path) -> None:
    """Throughput against concurrency, one panel a kind of prompts."""
    kinds = list(dict.fromkeys(cell["prompts"] for cell in generation["cells"]))
    figure, panels = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.6), squeeze=False)
    for panel, kind in zip(panels[0], kinds, strict=True):
        cells = [cell for cell in generation["cells"] if cell["prompts"] == kind]
        clients = [cell["clients"] for cell in cells]
        for name in cells[0]["samples"]:
            rates = [cell["samples"][name]["tokens_per_second"] for cell in cells]
            middle = [statistics.median(values) for values in rates]
            below = [m - min(values) for m, values in zip(middle, rates, strict=True)]
            above = [max(values) - m for m, values in zip(middle, rates, strict=True)]
            panel.errorbar(clients, middle, yerr=[below, above], marker="o", capsize=3, label=name)
        panel.set(title=f"{kind} prompts", xlabel="clients", ylabel="output tokens/s", xscale="log", yscale="log")
        panel.set_xticks(clients, [str(count) for count in clients])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(out / f"peers-generation-{generation['generator']}.png", dpi=110)


def curves(growth: dict[str, Any], out: Path) -> None:
    """One panel a curve."""
    found = growth["curves"]
    columns = 3
    rows = -(-len(found) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False)
    for panel, curve in zip(panels.flat, found, strict=False):
        middle = [statistics.median(values) for values in curve["values"]]
        panel.plot(curve["sizes"], middle, marker="o")
        panel.fill_between(
            curve["sizes"], [min(v) for v in curve["values"]], [max(v) for v in curve["values"]], alpha=0.2
        )
        panel.set(title=curve["name"], xlabel=curve["of"], ylabel=curve["unit"], xscale="log", yscale="log")
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(found) :]:
        panel.set_visible(False)
    figure.tight_layout()
    figure.savefig(out / "peers-growth.png", dpi=110)


results, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
if "generation" in results:
    by_clients(results["generation"], folder)
if "growth" in results:
    curves(results["growth"], folder)
