"""The plots of a capacity report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.measures import SERIES
from loadtest.slo import NO_OBJECTIVE, Objectives

if TYPE_CHECKING:
    from loadtest.capacity import Bracket, Step

mpl.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
                     "axes.spines.right": False, "legend.framealpha": 0.85, "legend.edgecolor": "none"})  # fmt: skip
COLOURS = {"p50": "#4c9f70", "p95": "#2a6fbb", "p99": "#8a4fbf", "ttft": "#d98324", "slo": "#c0392b"}


def draw(out: Path, scenario: str, steps: list[Step], found: Bracket, objectives: Objectives) -> dict[str, str]:
    """Write the plots into a folder; file name -> what it shows."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "latency-against-rate.png": ("Latency against rate", _latency(scenario, steps, found, objectives)),
        "ttft-distribution.png": ("TTFT distribution", _ttft(scenario, steps, found, objectives)),
        "throughput-over-time.png": ("Throughput over time", _throughput(scenario, steps)),
    }
    for name, (_, figure) in pictures.items():
        if figure:
            figure.savefig(out / name, dpi=130)
    return {name: text for name, (text, figure) in pictures.items() if figure}


def _grid(count: int, title: str, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, two in a row."""
    columns = min(2, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(6.4 * columns + (2.6 if columns == 1 else 0), height * lines + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = [figure.add_subplot(lines, columns, number + 1) for number in range(count)]
    return figure, panels


def _operations(steps: list[Step]) -> list[str]:
    return sorted({name for step in steps for name, tally in step.board.tallies.items() if tally.calls})


LINES = (
    ("latency p50", "latency", 0.5, "p50"), ("latency p95", "latency", 0.95, "p95"),
    ("latency p99", "latency", 0.99, "p99"), ("TTFT p95", "ttft", 0.95, "ttft"),
)  # fmt: skip


def _decisive(steps: list[Step]) -> list[Step]:
    """One step a rate, ascending: the one that kept, else the last."""
    chosen: dict[float, Step] = {}
    for step in steps:
        if not step.confirms:
            chosen[step.rate] = step
    return [chosen[rate] for rate in sorted(chosen)]


def _latency(scenario: str, steps: list[Step], found: Bracket, objectives: Objectives) -> Figure:
    names, decisive = _operations(steps), _decisive(steps)
    figure, panels = _grid(len(names), f"{scenario}: latency against rate")
    boards = {id(step): step.board for step in steps}
    for name, axes in zip(names, panels, strict=True):
        for label, measure, share, colour in LINES:

            def height(step: Step, name: str = name, measure: str = measure, share: float = share) -> float:
                """Milliseconds; none where nothing was measured or the quantile falls among failed calls."""
                value = boards[id(step)][name].quantile(measure, share)
                return value * 1000 if value is not None and math.isfinite(value) else math.nan

            if all(math.isnan(height(step)) for step in decisive):
                continue
            heights = [height(step) for step in decisive]
            axes.plot([step.rate for step in decisive], heights, color=COLOURS[colour], label=label, linewidth=1.6)
            for step in steps:
                alone = step not in decisive
                axes.plot(
                    step.rate, height(step), "o", color=COLOURS[colour], markersize=4 if alone else 6,
                    markerfacecolor=COLOURS[colour] if step.kept else "white", alpha=0.5 if alone else 1,
                )  # fmt: skip
        _bounds(axes, objectives, name, horizontal=True)
        if found.kept:
            axes.axvline(found.kept, color="#555555", linestyle=":", label=f"capacity {found.kept:.3g}/s")
        axes.set(title=name, xlabel="arrivals a second (whole mix)", ylabel="milliseconds", xscale="log", yscale="log")
        _plain(axes)
        axes.legend(fontsize=8)
    figure.supxlabel(
        "filled: the step kept the SLO; hollow: it broke it; small: repetitions and confirmations", fontsize=9
    )
    return figure


def _plain(axes: Axes) -> None:
    """Numbers as people write them on logarithmic axes."""
    plain = float(mpl.rcParams["font.size"])
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
            axis.set_tick_params(which="minor", labelsize=plain)


def _bounds(axes: Axes, objectives: Objectives, name: str, *, horizontal: bool) -> None:
    """A line for each bound on a quantile of an operation; of the TTFT alone where it is vertical."""
    objective = objectives.get(name, NO_OBJECTIVE)
    for field in sorted(type(objective).model_fields):
        measure, _, level = field.removesuffix("_ms").rpartition("_p")
        value = getattr(objective, field)
        if value is None or measure not in ("latency", "ttft") or not (horizontal or measure == "ttft"):
            continue
        title = f"SLO {'TTFT' if measure == 'ttft' else measure} p{level} {value:g} ms"
        line = axes.axhline if horizontal else axes.axvline
        line(
            value,
            color=COLOURS["ttft" if measure == "ttft" and horizontal else "slo"],
            linestyle="--",
            linewidth=1.2,
            label=title,
        )


def _ttft(scenario: str, steps: list[Step], found: Bracket, objectives: Objectives) -> Figure | None:
    shown = [step for step in _shown(steps, found) if step]
    names = [name for name in _operations(steps) if any(step.board[name].histograms["ttft"].count for step in shown)]
    if not names:
        return None
    figure, panels = _grid(len(names), f"{scenario}: distribution of the time to first token")
    kinds = (
        ("client, from due", "ttft", "-"),
        ("client, from sent", "ttft_sent", "--"),
        ("server", "ttft_server", ":"),
    )
    for name, axes in zip(names, panels, strict=True):
        for step, colour in zip(shown, ("#2a6fbb", "#c0392b"), strict=False):
            for label, measure, style in kinds:
                points = step.board[name].histograms[measure].points()
                if points:
                    title = f"{step.rate:.3g}/s {'kept' if step.kept else 'broken'}: {label}"
                    axes.step([x * 1000 for x, _ in points], [y * 100 for _, y in points], style, where="post", color=colour,
                              label=title, linewidth=1.6)  # fmt: skip
        _bounds(axes, objectives, name, horizontal=False)
        axes.set(
            title=name,
            xlabel="TTFT, milliseconds",
            ylabel="calls that ended well, % up to",
            xscale="log",
            ylim=(0, 102),
        )
        _plain(axes)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def _shown(steps: list[Step], found: Bracket) -> list[Step | None]:
    """The longest step at the capacity, and one at the lowest rate above it that broke."""
    best = max((one for one in steps if one.rate == found.kept and one.kept), key=lambda one: one.seconds, default=None)
    broke = next((one for one in steps if one.rate == found.broke and not one.kept), None)
    return [best, broke]


def _throughput(scenario: str, steps: list[Step]) -> Figure:
    """Each second of each step, the steps side by side in the order in which they ran."""
    series: dict[str, list[float]] = {name: [] for name in SERIES}
    borders, lows = [], [0]
    for step in steps:
        board = step.board
        last = max(1, int(step.seconds))  # what ended after the last arrival is left out
        for name in SERIES:
            counts = [one[name] for one in board.series.values()]
            series[name] += [float(sum(count[second] for count in counts)) for second in range(last)]
        borders.append((lows[-1], lows[-1] + last, step))
        lows.append(lows[-1] + last)
    tokens = any(series["tokens"])
    figure = Figure(figsize=(11, 6.4 if tokens else 4), layout="constrained")
    figure.suptitle(f"{scenario}: throughput over time, step after step", fontsize=13, fontweight="bold")
    panels: list[Any] = list(figure.subplots(2 if tokens else 1, 1, sharex=True, squeeze=False)[:, 0])
    seconds = range(len(series["due"]))
    panels[0].step(seconds, series["due"], where="post", color="#888888", label="due", linewidth=1.2)
    panels[0].step(seconds, series["ended"], where="post", color="#2a6fbb", label="ended well", linewidth=1.4)
    if any(series["failed"]):
        panels[0].step(
            seconds, series["failed"], where="post", color="#c0392b", label="failed or dropped", linewidth=1.2
        )
    panels[0].set(ylabel="calls a second")
    panels[0].legend(fontsize=8, loc="upper left")
    if tokens:
        panels[1].step(seconds, series["tokens"], where="post", color="#d98324", linewidth=1.4)
        panels[1].set(ylabel="output tokens a second")
    for low, high, step in borders:
        for axes in panels:
            axes.axvspan(low, high, color="#4c9f70" if step.kept else "#c0392b", alpha=0.10, linewidth=0)
            axes.axvline(high, color="#999999", linewidth=0.6)
        label = f"{step.rate:.3g}/s"
        panels[0].text(
            (low + high) / 2, 1.02, label, transform=panels[0].get_xaxis_transform(), ha="center", fontsize=8
        )
    panels[-1].set(xlabel="seconds of load (green: the step kept the SLO; red: it broke it)")
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, len(series["due"]))
    return figure
