"""The load command against a real cluster."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from genmesh import Client

from loadtest import arrivals, scenarios
from tests.conftest import ROOT, Running

SCENARIO = """
short:
  about: A little of everything.
  mix:
    chat: {weight: 3, max_tokens: [8, 16]}
    search: {weight: 3}
    embed: {weight: 3}
    rag: {weight: 1}
  arrivals: {kind: poisson, rate: 3}
  duration_seconds: 8
"""
LOOSE = "\n".join(
    f"{name}: {{call: {{latency_ms: 60000}}, goodput: 0.5}}" for name in ("chat", "search", "embed", "rag")
)


@pytest.fixture
def planned(tmp_path: Path) -> Counter[str]:
    """How many arrivals of each operation the scenario has."""
    path = tmp_path / "scenarios.yaml"
    path.write_text(SCENARIO)
    return Counter(one.operation for one in arrivals.plan(scenarios.pick("short", path)))


def load(running: Running, folder: Path, objectives: str, *more: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """What the command printed, and its summary."""
    (folder / "slo.yaml").write_text(objectives)
    command = [
        sys.executable, "-m", "loadtest.load", "short", "--scenarios", str(folder / "scenarios.yaml"),
        "--slo", str(folder / "slo.yaml"), "--out", str(folder / "out"), *more,
    ]  # fmt: skip
    environment = os.environ | {"GENMESH_TARGET": running.target, "GENMESH_API_KEY": running.alpha}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (folder / "out" / "summary.json").exists(), done.stdout + done.stderr
    return done, json.loads((folder / "out" / "summary.json").read_text())


def collections(client: Client) -> set[str]:
    return {one.name for one in client.vector_search.ListCollections({}).collections}


def test_a_mixed_scenario(running: Running, client: Client, tmp_path: Path, planned: Counter[str]) -> None:
    before = collections(client)
    done, summary = load(running, tmp_path, LOOSE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SLO kept." in done.stdout
    with (tmp_path / "out" / "locust_stats.csv").open() as file:
        rows = {(line["Type"], line["Name"]): line for line in csv.DictReader(file)}
    for name, number in planned.items():
        assert int(rows["gRPC", name]["Request Count"]) == int(rows["goodput %", name]["Request Count"]) == number
    assert int(rows["", "Aggregated"]["Request Count"]) == planned.total() == summary["arrivals"]
    kinds = {kind for kind, name in rows if name == "chat"}
    assert {
        "gRPC",
        "gRPC sent",
        "TTFT",
        "TTFT sent",
        "TTFT server",
        "ITL",
        "ITL call",
        "tokens/s",
        "tokens/s call",
        "goodput %",
    } == kinds
    chat = next(row for row in summary["operations"] if row["operation"] == "chat")
    # Each is a part of the next, call by call; the histograms round by 0.5 %.
    parts = [chat[f"{part}_p50_ms"] for part in ("ttft_server", "ttft_sent", "ttft", "latency")]
    assert parts[0] > 0
    assert all(part <= whole * 1.01 for part, whole in itertools.pairwise(parts)), parts
    tokens = summary["tallies"]["chat"]["output_tokens"]
    assert 8 * planned["chat"] <= tokens <= 16 * planned["chat"]
    assert sum(summary["series"]["chat"]["tokens"].values()) == tokens
    page = (tmp_path / "out" / "locust.html").read_text()
    assert all(kind in page for kind in ("TTFT server", "goodput %", "tokens/s"))
    assert collections(client) == before


@pytest.mark.nightly
def test_an_impossible_objective_with_two_workers(running: Running, tmp_path: Path, planned: Counter[str]) -> None:
    done, summary = load(running, tmp_path, "chat: {ttft_p95_ms: 0.01, error_rate: 0.5}", "--workers", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "chat: ttft_p95_ms was" in done.stdout
    assert "at most 0.01 ms is wanted." in done.stdout
    assert [text.split()[1] for text in summary["broken"]] == ["ttft_p95_ms"]
    assert summary["workers"] == 2
    assert {name: tally["calls"] for name, tally in summary["tallies"].items()} == planned


def test_what_cannot_run_is_told(running: Running) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, "-m", "loadtest.load", *arguments]
        return subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)

    unknown = command("nope")
    assert unknown.returncode == 2
    assert "There is no scenario nope; scenarios.yaml has chat" in unknown.stderr
    refused = command("chat", "--target", running.target, "--api-key", "gm_wrong")
    assert refused.returncode == 2
    assert "API key is not known" in refused.stderr
