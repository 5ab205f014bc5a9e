"""Every query of the dashboards and rules, on a real Prometheus fed by a real run; and the status page in Chromium."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from genmesh import Client
from genmesh.errors import GenmeshError

from deploy.observability import dashboards, rules
from tests.everything import STREAM, for_a_while
from tests.metrics import scrape


@pytest.fixture(scope="module")
def prometheus(running, client: Client) -> str:
    """Prometheus after half a minute of calls."""
    base = f"http://127.0.0.1:{running.cluster.ports['prometheus']}/api/v1/query?"
    for_a_while(client, 35)
    return base


def ask(base: str, expr: str) -> list[float]:
    query = urllib.parse.urlencode({"query": expr.replace("$__rate_interval", "1m")})
    with urllib.request.urlopen(base + query, timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success", expr
    return [float(sample["value"][1]) for sample in found["data"]["result"]]


def data_of(base: str, expr: str) -> list[float]:
    """Its values, given that a rule may be evaluated only in a quarter of a minute."""
    end = time.monotonic() + 25
    while not (found := ask(base, expr)) and time.monotonic() < end:
        time.sleep(1)
    return found


@pytest.mark.parametrize("uid", dashboards.DASHBOARDS)
def test_every_panel_has_data(prometheus: str, uid: str) -> None:
    empty = []
    for graph in dashboards.DASHBOARDS[uid][1]:
        for curve in graph.curves:
            values = data_of(prometheus, curve.expr)
            if not values or all(math.isnan(value) for value in values):
                empty.append((graph.title, curve.expr))
    assert not empty


def test_every_record_and_every_signal_of_an_alert_has_data(prometheus: str) -> None:
    empty = [record.name for record in rules.records() if not data_of(prometheus, record.name)]
    empty += [left for alert in rules.alerts() for left, _ in alert.signals if not data_of(prometheus, left)]
    assert not empty


def test_no_alert_fires_on_a_healthy_cluster(prometheus: str) -> None:
    assert ask(prometheus, 'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)') == [0]


def test_prometheus_has_read_the_rules(running, prometheus: str) -> None:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{running.cluster.ports['prometheus']}/api/v1/rules", timeout=5
    ) as answer:
        groups = json.load(answer)["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules.records()) + len(rules.alerts())
    assert all(rule["health"] == "ok" for rule in found), [rule for rule in found if rule["health"] != "ok"]


def test_scraping_costs_under_one_percent(running, prometheus: str) -> None:
    """Of a core of the gateway's, which has the most series, at a scrape each five seconds as `make up` has it."""
    port = running.cluster.ports["metrics_gateway"]

    def cpu_of(scrapes: int) -> float:
        """CPU seconds of the gateway in two seconds, with so many scrapes."""
        begun, before = time.monotonic(), scrape(port)["process_cpu_seconds_total", ""]
        for _ in range(scrapes):
            scrape(port)
        time.sleep(max(0.0, 2 - (time.monotonic() - begun)))
        return scrape(port)["process_cpu_seconds_total", ""] - before

    idle = min(cpu_of(0) for _ in range(2))
    cost = min(cpu_of(20) - idle for _ in range(2)) / 20
    assert 0 < cost / 5 < 0.01, f"a scrape costs {cost * 1000:.1f} ms of a core"


# The status page


def page(running, path: str = "") -> str:
    return f"http://127.0.0.1:{running.cluster.ports['status']}/{path}"


def browse(running, *options: str) -> str:
    """The page as Chromium has drawn it."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
               "--virtual-time-budget=3000", *options, page(running)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_the_page_shows_health_curves_and_errors(running, prometheus: str, tmp_path: Path) -> None:
    with pytest.raises(GenmeshError):
        running.client().tokenization.Count({"texts": []})
    time.sleep(2.5)
    drawn = browse(running, "--dump-dom")
    assert "all parts are serving" in drawn
    for part in ("tokenization", "embedding", "vector_search", "generation", "diffusion", "rag"):
        assert re.search(rf'data-part="{part}".*?class="state SERVING">SERVING<', drawn), part
    for dependency in ("redis", "milvus", "triton/embedder", "triton/generator", "triton/diffuser"):
        assert f"{dependency}: " in drawn
    for curve in ("ttft_p50_seconds", "ttft_p95_seconds", "calls_per_second", "messages_per_second"):
        (path,) = re.findall(rf'<path d="([^"]*)"[^>]*data-curve="{curve}"', drawn)
        assert path.count("L") >= 5, curve
    assert re.search(r"<td>Count</td><td>INVALID_ARGUMENT</td><td>INVALID_FIELD</td><td>[0-9a-f]{32}</td>", drawn)
    picture = tmp_path / "status.png"
    browse(running, "--window-size=1150,900", f"--screenshot={picture}")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 20_000


def test_the_pages_numbers_are_those_of_the_calls(running, prometheus: str, client: Client) -> None:
    for _ in range(5):
        list(client.generation.StreamGenerate(STREAM))
    time.sleep(2.5)
    with urllib.request.urlopen(page(running, "status.json"), timeout=5) as answer:
        found = json.load(answer)
    last = found["points"][-1]
    assert 0 < last["ttft_p50_seconds"] <= last["ttft_p95_seconds"] <= last["ttft_p99_seconds"] < 10
    assert last["calls_per_second"] > 0
    assert last["messages_per_second"] > last["calls_per_second"]
    assert last["in_flight"] == 0


def test_there_is_nothing_else_behind_the_page(running) -> None:
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(page(running, "etc/passwd"), timeout=5)
    assert failure.value.code == 404
    with urllib.request.urlopen(page(running, "healthz"), timeout=5) as answer:
        assert answer.read() == b"ok\n"
