"""Figures that nightly tests measure: printed, and written into the document that GENMESH_FIGURES names.

The document's table has a row a figure; a run replaces the rows that it measured, and the rest stays.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

Figure = Callable[..., None]
HEAD = """# Figures of the nightly tests

`make test-nightly` runs what the gate leaves out and writes this page. Durations, rates and shares depend on the machine
and on what else ran there.

| figure | value | measured on | test |
| --- | --- | --- | --- |
"""


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Figure]:
    """``figure(name, value, unit)`` records one; a test may record several."""
    rows: list[tuple[str, str]] = []

    def record(name: str, value: float, unit: str = "") -> None:
        rows.append((name, f"{value:,.4g} {unit}".strip()))
        print(f"{name}: {rows[-1][1]}")

    yield record
    if rows and (document := os.environ.get("GENMESH_FIGURES")):
        write(Path(document), request.node.nodeid, rows)


def write(document: Path, test: str, rows: list[tuple[str, str]]) -> None:
    """Put a test's figures into the table, sorted by test, in place of those that it measured before."""
    text = document.read_text() if document.is_file() else HEAD
    kept = [
        line for line in text.removeprefix(HEAD).splitlines() if line.startswith("|") and f"| `{test}` |" not in line
    ]
    added = [f"| {name} | {value} | {machine()}, {date.today()} | `{test}` |" for name, value in rows]
    document.write_text(HEAD + "\n".join(sorted(kept + added, key=lambda line: line.split(" | ")[-1])) + "\n")


def machine() -> str:
    """The processor, how many of them, and which of the instructions that matter here it has."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("avx512_vnni", "avx512_bf16", "amx_int8") if f" {flag}" in text] or ["avx2"]
    return f"{os.cpu_count()} x {name[1] if name else platform.machine()} ({', '.join(flags)})"
