"""What nightly tests measured, as a page."""

from pathlib import Path

import pytest

from tests import figures


def test_a_run_replaces_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "machine", lambda: "a machine")
    page = tmp_path / "nightly.md"
    figures.write(page, "tests/b.py::test_two", [("latency", "5 ms"), ("share", "0.97")])
    figures.write(page, "tests/a.py::test_one", [("rate", "12 calls/s")])
    figures.write(page, "tests/b.py::test_two", [("latency", "4 ms")])
    rows = [line.split(" | ") for line in page.read_text().removeprefix(figures.HEAD).splitlines()]
    assert [(row[0], row[1]) for row in rows] == [("| rate", "12 calls/s"), ("| latency", "4 ms")]
    assert all(row[2].startswith("a machine, 20") for row in rows)
