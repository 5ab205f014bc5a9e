"""What a run was, as rows of one table: printed, on the web page, in summary.csv and summary.json."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtest.measures import DROPPED, Board, Tally

# key -> title; the key's unit is in the title.
COLUMNS = {
    "operation": "operation",
    "arrivals": "arrivals",
    "failed": "failed",
    "dropped": "dropped",
    "goodput_percent": "goodput [%]",
    "good_per_second": "good [1/s]",
    "latency_p50_ms": "latency p50 [ms]",
    "latency_p95_ms": "latency p95 [ms]",
    "latency_p99_ms": "latency p99 [ms]",
    "service_time_p95_ms": "sent p95 [ms]",
    "ttft_p50_ms": "TTFT p50 [ms]",
    "ttft_p95_ms": "TTFT p95 [ms]",
    "ttft_sent_p50_ms": "TTFT sent p50 [ms]",
    "ttft_server_p50_ms": "TTFT server p50 [ms]",
    "ttft_sent_p95_ms": "TTFT sent p95 [ms]",
    "ttft_server_p95_ms": "TTFT server p95 [ms]",
    "ttft_added_p50_ms": "TTFT added p50 [ms]",
    "itl_p50_ms": "ITL p50 [ms]",
    "itl_p95_ms": "ITL p95 [ms]",
    "itl_call_p50_ms": "ITL call p50 [ms]",
    "itl_call_p95_ms": "ITL call p95 [ms]",
    "tokens_per_second": "tokens [1/s]",
    "call_tokens_per_second_p50": "call tokens p50 [1/s]",
}
LEGEND = """\
latency, TTFT: from when a call was due (coordinated omission corrected); sent: from when it was sent; server: its own
figure; added: TTFT sent less TTFT server of the same call. Failed and dropped arrivals rank as slower than all others.
ITL: gap between two messages with content; ITL call: the mean gap of a call. goodput: arrivals that ended well within
their bounds in slo.yaml."""
Value = str | float | None
Row = dict[str, Value]


def rows(board: Board, elapsed: float) -> list[Row]:
    """One row an operation. ``elapsed``: seconds that rates are taken over."""
    return [_row(name, board.tallies[name], max(elapsed, 1e-9)) for name in sorted(board.tallies)]


def _row(name: str, tally: Tally, elapsed: float) -> Row:
    found: Row = {
        "operation": name, "arrivals": tally.calls, "failed": tally.failed, "dropped": tally.errors[DROPPED],
        "goodput_percent": round(100 * tally.good / tally.calls, 2) if tally.calls else None,
        "good_per_second": round(tally.good / elapsed, 3),
        "tokens_per_second": round(tally.output_tokens / elapsed, 2) if tally.output_tokens else None,
        "call_tokens_per_second_p50": _rounded(tally.quantile("tokens_per_second", 0.5), 1),
    }  # fmt: skip
    for key in COLUMNS:
        measure, _, level = key.removesuffix("_ms").rpartition("_p")
        if key.endswith("_ms"):
            found[key] = _rounded(tally.quantile(measure, int(level) / 100), 1000)
    return {key: found[key] for key in COLUMNS}


def _rounded(value: float | None, times: float) -> Value:
    """To three digits; "inf" where it falls among calls that failed."""
    if value is None:
        return None
    return "inf" if math.isinf(value) else float(f"{value * times:.4g}")


def table(found: list[Row]) -> str:
    """The rows for a terminal."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [key for key in COLUMNS if any(row[key] is not None for row in found)]
    for key in shown:
        words = COLUMNS[key].split(" ")
        grid.add_column(
            "\n".join(words), justify="left" if key == "operation" else "right", no_wrap=True, vertical="bottom"
        )
    for row in found:
        grid.add_row(*(_cell(row[key]) for key in shown))
    console = Console(file=io.StringIO(), width=240)
    console.print(grid)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join(line for line in lines if line)


def _cell(value: Value) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def as_csv(found: list[Row]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return target.getvalue()


def write(folder: Path, facts: dict[str, Any], found: list[Row], board: Board) -> None:
    """Write summary.csv, and summary.json with the distributions and the series of each second."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.csv").write_text(as_csv(found))
    everything = {**facts, "operations": found, **board.packed()}
    (folder / "summary.json").write_text(json.dumps(everything, indent=1))
