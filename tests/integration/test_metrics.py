"""Each service counts what happened, TTFT as defined, and Prometheus scrapes them all."""

from __future__ import annotations

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from genmesh import Client
from genmesh.errors import GenmeshError

from deploy.local.ports import SERVICES
from tests.metrics import scrape
from tests.waiting import until


@pytest.mark.parametrize("part", SERVICES)
def test_every_service_has_its_series_from_the_start(running, part: str) -> None:
    found = scrape(running.cluster.ports[f"metrics_{part}"])
    names = {name for name, _ in found}
    for suffix in (
        "requests_total",
        "request_duration_seconds_bucket",
        "time_to_first_token_seconds_bucket",
        "requests_in_flight",
    ):
        if part != "tokenization" or "first_token" not in suffix:  # the one service without streams
            assert f"genmesh_{part}_{suffix}" in names
    assert any('method="Chat"' in labels and 'code="CANCELLED"' in labels for _, labels in found) == (
        part in ("gateway", "generation")
    )


def test_calls_are_counted_by_code_at_both_hops(running, client: Client) -> None:
    ports = running.cluster.ports
    hops = {"gateway": ports["metrics_gateway"], "tokenization": ports["metrics_tokenization"]}
    before = {hop: scrape(port) for hop, port in hops.items()}
    for _ in range(3):
        client.tokenization.Count({"texts": ["x"]})
    with pytest.raises(GenmeshError):
        client.tokenization.Count({"texts": []})
    for hop, port in hops.items():
        for code, count in (("OK", 3), ("INVALID_ARGUMENT", 1)):
            key = (f"genmesh_{hop}_requests_total", f'code="{code}",method="Count"')
            # A call is counted when it is over, which is after its answer.
            until(lambda port=port, key=key, wanted=before[hop][key] + count: scrape(port)[key] == wanted)


def test_ttft_is_measured_to_the_first_content(running, client: Client) -> None:
    """A stream's TTFT at the gateway lies within the client's own, and the service's within the gateway's."""

    def total(part: str) -> tuple[float, float]:
        found = scrape(running.cluster.ports[f"metrics_{part}"])
        name = f"genmesh_{part}_time_to_first_token_seconds"
        labels = 'method="StreamGenerate"'
        return found[name + "_sum", labels], found[name + "_count", labels]

    before = {part: total(part) for part in ("gateway", "generation")}
    begun, first = time.monotonic(), None
    for piece in client.generation.StreamGenerate(
        {"prompt": "The river", "sampling": {"max_tokens": 30, "ignore_eos": True}}
    ):
        if piece.text and first is None:
            first = time.monotonic() - begun
    assert first is not None
    until(lambda: all(total(part)[1] == before[part][1] + 1 for part in before))
    gateway, generation = (total(part)[0] - before[part][0] for part in before)
    assert 0 < generation <= gateway <= first


def test_large_requests_do_not_hold_up_the_event_loop(running, client: Client) -> None:
    """While one is worked on the loop takes its turns: were it the loop's own work, no look at it would fall in between."""
    large = {"texts": ["the keeper counts the boats " * 7000] * 30}

    def looks() -> tuple[float, float]:
        """How often the loop was looked at, and the large requests in flight."""
        found = scrape(running.cluster.ports["metrics_tokenization"])
        name = "genmesh_tokenization"
        return found[f"{name}_event_loop_lag_seconds_count", ""], found[f"{name}_requests_in_flight", ""]

    def turns() -> bool:
        with ThreadPoolExecutor(1) as pool:
            sent, seen = pool.submit(client.tokenization.Encode, large, timeout=120), set[float]()
            while not sent.done():
                count, in_flight = looks()
                if in_flight:
                    seen.add(count)
            assert len(sent.result().sequences) == 30
        return len(seen) > 1

    until(turns)


def test_prometheus_scrapes_every_part(running) -> None:
    port = running.cluster.ports["prometheus"]
    wanted = {"triton", "redis", "milvus", "prometheus", *(f"genmesh-{name.replace('_', '-')}" for name in SERVICES)}

    def health() -> dict[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets?state=active", timeout=60) as answer:
            return {t["labels"]["job"]: t["health"] for t in json.load(answer)["data"]["activeTargets"]}

    until(lambda: health() == dict.fromkeys(wanted, "up"))
