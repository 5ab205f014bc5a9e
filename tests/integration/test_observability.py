"""Every query of the dashboards and rules, on a real Prometheus fed by a real run; and the status page in Chromium."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from genmesh import Client
from genmesh.errors import GenmeshError, NotFound

from deploy.local.processes import RULES
from deploy.observability import dashboards, rules
from tests.everything import STREAM, a_bit_of_everything
from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import until


@pytest.fixture(scope="module")
def prometheus(running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The cluster's Prometheus, which looks and computes each second here."""
    config, rules_file = running.cluster.layout.run / "prometheus.yaml", tmp_path_factory.mktemp("rules") / "rules.yaml"
    before = config.read_text()
    rules_file.write_text(re.sub(r"interval: \d+s", "interval: 1s", RULES.read_text()))
    quick = yaml.safe_load(before) | {"rule_files": [str(rules_file)]}
    quick["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for text in (yaml.safe_dump(quick), before):
        config.write_text(text)
        running.cluster.manager.signalProcess("prometheus", "HUP")
        if text != before:
            yield f"http://127.0.0.1:{running.cluster.ports['prometheus']}/api/v1"


def asked(base: str, path: str) -> dict:
    with urllib.request.urlopen(f"{base}/{path}", timeout=60) as answer:
        found = json.load(answer)
    assert found["status"] == "success", path
    return found["data"]


def ask(base: str, expr: str) -> list[float]:
    query = urllib.parse.urlencode({"query": expr.replace("$__rate_interval", "1m")})
    return [float(sample["value"][1]) for sample in asked(base, f"query?{query}")["result"]]


def call_until_all_have_data(client: Client, base: str, expressions: Iterable[str]) -> None:
    """Make calls of every kind until each expression has had a value."""
    left, round_, end = list(expressions), 0, time.monotonic() + 300
    try:
        while left := [e for e in left if all(math.isnan(value) for value in ask(base, e))]:
            assert time.monotonic() < end, left
            a_bit_of_everything(client, "observed", round_)
            round_ += 1
    finally:
        with suppress(NotFound):
            client.vector_search.DeleteCollection({"collection": "observed"})


@pytest.mark.parametrize("uid", dashboards.DASHBOARDS)
def test_every_panel_has_data(client: Client, prometheus: str, uid: str) -> None:
    graphs = dashboards.DASHBOARDS[uid][1]
    call_until_all_have_data(client, prometheus, [curve.expr for graph in graphs for curve in graph.curves])


def test_every_record_and_every_signal_of_an_alert_has_data(client: Client, prometheus: str) -> None:
    signals = [left for alert in rules.alerts() for left, _ in alert.signals]
    call_until_all_have_data(client, prometheus, [record.name for record in rules.records()] + signals)


@pytest.mark.nightly
def test_no_alert_fires_on_a_healthy_cluster(client: Client, prometheus: str, figure: Figure) -> None:
    """Other tests fail calls on purpose, so that burn rates may; no part may be missed."""
    call_until_all_have_data(client, prometheus, [record.name for record in rules.records()])
    pages = 'count(ALERTS{alertstate="firing",severity="page"%s}) or vector(0)'
    (firing,) = ask(prometheus, pages % "")
    figure("alerts that page, with a healthy cluster", firing, "")
    assert ask(prometheus, pages % ',alertname!~".*Burn.*"') == [0]


def test_prometheus_has_read_the_rules(prometheus: str) -> None:
    wanted = len(rules.records()) + len(rules.alerts())

    def found() -> list[dict]:
        return [rule for group in asked(prometheus, "rules")["groups"] for rule in group["rules"]]

    until(lambda: [rule["health"] for rule in found()] == ["ok"] * wanted)


@pytest.mark.nightly
def test_scraping_costs_little(running, figure: Figure) -> None:
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
    figure("a scrape of the gateway, each five seconds", 100 * cost / 5, "% of a core")
    assert cost / 5 < 0.05


# The status page


def page(running, path: str = "") -> str:
    return f"http://127.0.0.1:{running.cluster.ports['status']}/{path}"


def status(running) -> dict:
    with urllib.request.urlopen(page(running, "status.json"), timeout=60) as answer:
        return json.load(answer)


def browse(running, *options: str) -> str:
    """The page as Chromium has drawn it."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
               "--virtual-time-budget=3000", *options, page(running)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_the_page_shows_health_curves_and_errors(running, client: Client, tmp_path: Path) -> None:
    list(client.generation.StreamGenerate(STREAM))
    with pytest.raises(GenmeshError):
        client.tokenization.Count({"texts": []})
    curves = ("ttft_p50_seconds", "ttft_p95_seconds", "calls_per_second", "messages_per_second")

    def there() -> bool:
        found = status(running)
        drawn = [point for point in found["points"] if all(point[curve] is not None for curve in curves)]
        return len(drawn) >= 6 and all(part["state"] == "SERVING" for part in found["parts"])

    until(there)
    drawn = browse(running, "--dump-dom")
    assert "all parts are serving" in drawn
    for part in ("tokenization", "embedding", "vector_search", "generation", "diffusion", "rag"):
        assert re.search(rf'data-part="{part}".*?class="state SERVING">SERVING<', drawn), part
    for dependency in ("redis", "milvus", "triton/embedder", "triton/generator", "triton/diffuser"):
        assert f"{dependency}: " in drawn
    for curve in curves:
        (path,) = re.findall(rf'<path d="([^"]*)"[^>]*data-curve="{curve}"', drawn)
        assert path.count("L") >= 5, curve
    assert re.search(r"<td>Count</td><td>INVALID_ARGUMENT</td><td>INVALID_FIELD</td><td>[0-9a-f]{32}</td>", drawn)
    picture = tmp_path / "status.png"
    browse(running, "--window-size=1150,900", f"--screenshot={picture}")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 20_000


def test_the_pages_numbers_are_those_of_the_calls(running, client: Client) -> None:
    def points() -> list[dict]:
        return [point for point in status(running)["points"] if point["time"] > begun]

    begun = time.time()
    for _ in range(5):
        list(client.generation.StreamGenerate(STREAM))
    until(lambda: any(point["messages_per_second"] > point["calls_per_second"] > 0 for point in points()))
    until(lambda: points()[-1]["in_flight"] == 0)
    for point in points():
        percentiles = [point[f"ttft_p{share}_seconds"] or 0 for share in (50, 95, 99)]
        assert percentiles == sorted(percentiles)


def test_there_is_nothing_else_behind_the_page(running) -> None:
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(page(running, "etc/passwd"), timeout=60)
    with failure.value:
        assert failure.value.code == 404
    with urllib.request.urlopen(page(running, "healthz"), timeout=60) as answer:
        assert answer.read() == b"ok\n"
