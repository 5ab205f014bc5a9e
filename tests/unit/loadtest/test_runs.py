"""Runs of the command against a gateway that is a fake: it holds a call back, or stalls for a second."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from genmesh.v1 import models_pb2, models_pb2_grpc, tokenization_pb2, tokenization_pb2_grpc

from loadtest.histogram import Histogram
from tests.figures import Figure

SCENARIOS = """
stalled: {about: x, mix: {tokenize: {}}, duration_seconds: 4, arrivals: {kind: closed, users: 1, calls_per_second: 10}}
narrow: {about: x, mix: {tokenize: {}}, duration_seconds: 1, max_in_flight: 1, arrivals: {kind: constant, rate: 20}}
"""
SLO = "tokenize: {call: {latency_ms: 500}, goodput: 0.99, latency_p95_ms: 500}"


class Fake(tokenization_pb2_grpc.TokenizationServiceServicer, models_pb2_grpc.ModelServiceServicer):
    """Answers at once, but for a stall: when it begins, in seconds after the first call, and how long it is."""

    target = ""
    stall = 0.0, 0.0

    def __init__(self) -> None:
        self.begun: float | None = None
        self.lock = threading.Lock()

    def Encode(self, request: Any, context: Any) -> Any:
        now = time.monotonic()
        with self.lock:
            self.begun = self.begun or now
        begins, seconds = self.begun + self.stall[0], self.stall[1]
        if begins <= now < begins + seconds:
            time.sleep(begins + seconds - now)
        return tokenization_pb2.EncodeResponse()

    def ListModels(self, request: Any, context: Any) -> Any:
        return models_pb2.ListModelsResponse()


@pytest.fixture
def gateway() -> Iterator[Fake]:
    server = grpc.server(futures.ThreadPoolExecutor(64))
    fake = Fake()
    tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(fake, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
    fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(None).wait()


def load(folder: Path, scenario: str, target: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """What the command printed, and its summary."""
    (folder / "scenarios.yaml").write_text(SCENARIOS)
    (folder / "slo.yaml").write_text(SLO)
    command = [
        sys.executable, "-m", "loadtest.load", scenario, "--target", target, "--api-key", "x", "--out", str(folder / "out"),
        "--scenarios", str(folder / "scenarios.yaml"), "--slo", str(folder / "slo.yaml"), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, json.loads((folder / "out" / "summary.json").read_text())


def slower(summary: Any, measure: str, seconds: float) -> int:
    """How many calls were slower than that."""
    buckets = summary["tallies"]["tokenize"]["histograms"][measure]
    return sum(n for bucket, n in buckets.items() if (Histogram({int(bucket): 1}).quantile(1) or 0) > seconds)


@pytest.mark.nightly
def test_a_stall_shows_in_the_calls_behind_it(tmp_path: Path, gateway: Fake, figure: Figure) -> None:
    """On a clock of its own: test_pace.py. One user: one call meets the stall, five were due in its first half."""
    gateway.stall = 1.5, 1.0
    done, summary = load(tmp_path, "stalled", gateway.target)
    met, shown = (slower(summary, measure, 0.45) for measure in ("service_time", "latency"))
    figure("load: calls that met a stall of a second", met, "calls")
    figure("load: calls that show it", shown, "calls")
    assert 1 <= met < shown
    assert done.returncode == 1
    assert "SLO broken" in done.stdout
    assert "tokenize: latency_p95_ms was" in done.stdout
    assert "at most 500 ms is wanted" in done.stdout


def test_arrivals_beyond_the_bound_are_dropped_and_counted(tmp_path: Path, gateway: Fake) -> None:
    gateway.stall = 0.0, 1.5  # the first call outlasts the run, so that those behind it find no room
    done, summary = load(tmp_path, "narrow", gateway.target)
    (row,) = summary["operations"]
    assert row["arrivals"] == summary["planned"] == 20
    assert row["dropped"] == row["failed"] >= 1
    assert row["goodput_percent"] <= 100 * (19 - row["dropped"]) / 20  # the first call was too slow
    assert done.returncode == 1
    assert "SLO broken" in done.stdout
    with (tmp_path / "out" / "locust_stats.csv").open() as file:
        rows = {(line["Type"], line["Name"]): line for line in csv.DictReader(file)}
    assert rows["gRPC", "tokenize"]["Request Count"] == rows["", "Aggregated"]["Request Count"] == "20"
    assert int(rows["gRPC", "tokenize"]["Failure Count"]) == row["dropped"]
    assert float(rows["goodput %", "tokenize"]["Average Response Time"]) == pytest.approx(row["goodput_percent"])
    with (tmp_path / "out" / "locust_failures.csv").open() as file:
        assert [line["Error"] for line in csv.DictReader(file)] == ["DROPPED"]
