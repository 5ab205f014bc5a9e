"""Dashboards, rules and the metrics table: as declared, valid by their schemas, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.observability import dashboards, rules
from deploy.observability.files import CHART, REDIS, RULES, TRITON, files, models_metrics, vector_store_metrics
from services.runtime.metrics import CODES, FAMILIES, Declared, Gauge, Histogram

register_default_plugins()
HISTOGRAM = ("_bucket", "_sum", "_count")


def declared() -> dict[str, set[str]]:
    """Series -> its labels."""
    found: dict[str, set[str]] = {name: set(labels.split(", ")) for name, (_, _, labels) in TRITON.items()}
    for family in FAMILIES:
        for service in family.services:
            for metric in family.declared().values():
                labels = set(metric.labels) | {"job", "instance"}
                if metric.kind is Histogram:
                    found |= {metric.name(service) + end: labels | {"le"} for end in HISTOGRAM}
                else:
                    found[metric.name(service)] = labels
    for family_name, metrics in models_metrics().items():
        found |= {f"genmesh_{family_name}_{name}": {"model", "version"} for name in metrics}
    for name, (kind, _, labels_) in vector_store_metrics().items():
        found |= {
            name + end: {*labels_, "job", "instance", "le"} for end in (HISTOGRAM if kind == "histogram" else [""])
        }
    found |= {key: {"job", "instance"} for key in REDIS}
    found |= {record.name: {*record.labels, "job", "instance"} for record in rules.records()}
    return found | {
        "up": {"job", "instance"},
        "process_cpu_seconds_total": {"job"},
        "process_resident_memory_bytes": {"job"},
    }


def expressions() -> list[str]:
    found = [curve.expr for _, graphs in dashboards.DASHBOARDS.values() for graph in graphs for curve in graph.curves]
    return found + [record.expr for record in rules.records()] + [alert.expr for alert in rules.alerts()]


def test_files_are_what_the_declarations_make() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path} is stale; run `make observability`"


def test_every_expression_names_declared_series_and_labels() -> None:
    known = declared()
    for expr in expressions():
        plain = re.sub(r'"[^"]*"', '""', expr)
        for name in re.findall(r"\b(?:genmesh[a-z0-9_:]+|nv_[a-z_]+|redis_[a-z_]+|process_[a-z_]+)", plain):
            if name.endswith("_"):  # the beginning of a pattern over services
                continue
            assert name in known, (name, expr)
            for matcher in re.findall(re.escape(name) + r"\{([^}]*)\}", plain):
                assert {re.split("[=!]", part)[0].strip() for part in matcher.split(",")} <= known[name], (name, expr)


@pytest.mark.parametrize("uid", dashboards.DASHBOARDS)
def test_a_dashboard_is_valid_by_grafanas_schema(uid: str) -> None:
    """Read into Grafana's generated types and written again, nothing is lost: no key is unknown to the schema."""
    text = (CHART / "dashboards" / f"{uid}.json").read_text()
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(JSONEncoder().encode(read)) == json.loads(text)
    panels = json.loads(text)["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = sorted((p["gridPos"]["y"], p["gridPos"]["x"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in panels)
    for (y, x, w, h), (below, beside, _, _) in pairwise(places):
        assert (below == y and beside >= x + w) or below >= y + h
    assert all(len({t["refId"] for t in p["targets"]}) == len(p["targets"]) > 0 for p in panels)


def test_every_metric_of_a_declaration_is_made_with_its_known_series_at_zero() -> None:
    from prometheus_client import CollectorRegistry

    for family in FAMILIES:
        for service in family.services:
            registry = CollectorRegistry()
            opened = {
                label.key: ["one", "two"]
                for d in family.declared().values()
                for label in d.labels.values()
                if not isinstance(label, tuple)
            }
            family(service, registry, **opened)
            values = {s.name: s.value for f in registry.collect() for s in f.samples if not s.name.endswith("_created")}
            for metric in family.declared().values():
                name = metric.name(service) + ("_count" if metric.kind is Histogram else "")
                assert values[name] == 0, name
                assert name.startswith(f"genmesh_{service}_")
                _check_unit(metric)


def _check_unit(metric: Declared) -> None:
    if metric.kind is Histogram:
        assert metric.what.endswith(("_seconds", "_inputs")), metric.what
        assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    if metric.kind is Gauge:
        assert not metric.what.endswith("_total")


def test_a_family_is_made_for_its_own_services_only() -> None:
    from prometheus_client import CollectorRegistry

    with pytest.raises(ValueError, match="not declared for rag"):
        next(f for f in FAMILIES if f.__name__ == "Gateway")("rag", CollectorRegistry())


# Alerts, in Prometheus' own test runner

CALLS = "genmesh_gateway_requests_total"
TTFT = "genmesh_gateway_time_to_first_token_seconds"


def steady(series: str, by: float, minutes: int) -> dict[str, str]:
    return {"series": series, "values": f"0+{by}x{minutes}"}


def held(series: str, value: float, minutes: int) -> dict[str, str]:
    return {"series": series, "values": f"{value}x{minutes}"}


def calls(bad_share: float, minutes: int) -> list[dict[str, str]]:
    bad = 1000 * bad_share
    return [steady(f'{CALLS}{{method="Chat",code="OK"}}', 1000 - bad, minutes),
            steady(f'{CALLS}{{method="Chat",code="UNAVAILABLE"}}', bad, minutes)]  # fmt: skip


def streams(slow_share: float, minutes: int) -> list[dict[str, str]]:
    fast = 1000 * (1 - slow_share)
    return [steady(f'{TTFT}_bucket{{method="StreamChat",le="1.0"}}', fast, minutes),
            steady(f'{TTFT}_count{{method="StreamChat"}}', 1000, minutes)]  # fmt: skip


# Minutes between two samples and evaluations; under Prometheus' look-back of 5, or a rule misses the one before it.
STEPS = {"1h": 1, "6h": 2, "1d": 4, "3d": 4}
SAMPLES = {"1h": 80, "6h": 220, "1d": 400, "3d": 1200}


def cases() -> dict[str, tuple[list[dict[str, str]], list[dict[str, str]], int]]:
    """Alert -> (series under which it fires, series under which it is silent, minute)."""
    found = {}
    for burn, long, _, _ in rules.BURNS:
        for what, make, budget in (("Availability", calls, 1 - rules.AVAILABILITY), ("Ttft", streams, 1 - rules.TTFT)):
            found[f"Genmesh{what}Burn{long}"] = (
                make(budget * burn * 1.2, SAMPLES[long]),
                make(budget * burn * 0.8, SAMPLES[long]),
                SAMPLES[long],
            )  # fmt: skip
    found["GenmeshPartDown"] = (
        [held('up{job="genmesh-rag",instance="a"}', 0, 10)],
        [held('up{job="genmesh-rag",instance="a"}', 1, 10)],
        9,
    )
    found["GenmeshTritonDown"] = (
        [held('up{job="triton",instance="a"}', 0, 20)],
        [held('up{job="triton",instance="a"}', 0, 12), held('up{job="triton",instance="b"}', 1, 20)],
        19,
    )
    up = 'genmesh_gateway_upstream_up{upstream="genmesh.v1.RagService"}'
    found["GenmeshUpstreamNotServing"] = [held(up, 0, 10)], [held(up, 1, 10)], 9
    refused = 'genmesh_gateway_requests_refused_total{reason="OVERLOADED"}'
    found["GenmeshOverloaded"] = [steady(refused, 3, 20)], [held(refused, 7, 20)], 19
    running, most = "genmesh_rag_requests_in_flight", "genmesh_rag_concurrency_limit_requests"
    found["GenmeshSaturated"] = (
        [held(running, 250, 20), held(most, 256, 20)],
        [held(running, 100, 20), held(most, 256, 20)],
        19,
    )
    late = 'genmesh_tokenization_event_loop_lag_seconds_bucket{job="genmesh-tokenization",instance="a",le="%s"}'

    def lag(share: float) -> list[dict[str, str]]:
        return [
            steady(late % "0.25", 600 * (1 - share), 20),
            steady(late % "0.5", 600, 20),
            steady(late % "+Inf", 600, 20),
        ]

    found["GenmeshEventLoopLag"] = lag(0.05), lag(0.001), 19
    # On GPUs the engine's metrics are vLLM's.
    waiting, theirs = (
        'genmesh_generator_waiting_requests{model="generator"}',
        'vllm:num_requests_waiting{model="generator",instance="gpu"}',
    )
    found["GenmeshGenerationQueueing"] = [held(waiting, 5, 20), held(theirs, 7, 20)], [held(waiting, 4, 20)], 19
    engine = 'genmesh_generator_{}{{model="generator",instance="{}"}}'
    step, run, wait = "last_step_timestamp_seconds", "running_requests", "waiting_requests"
    stuck = [held(engine.format(step, "a"), 0, 20), held(engine.format(run, "a"), 0, 20)]
    stuck.append(held(engine.format(wait, "a"), 1, 20))
    well = [steady(engine.format(step, "b"), 60, 20), held(engine.format(run, "b"), 3, 20)]
    well.append(held(engine.format(wait, "b"), 1, 20))
    idle = [held(engine.format(name, "c"), 0, 20) for name in (step, run, wait)]
    found["GenmeshEngineStuck"] = [*stuck, *well, *idle], [*well, *idle], 19
    ended = f'{CALLS}{{method="StreamChat",code="%s"}}'
    found["GenmeshStreamsWithoutToken"] = (
        [*streams(0, 20), steady(ended % "OK", 1000, 20), steady(ended % "DEADLINE_EXCEEDED", 150, 20)],
        [*streams(0, 20), steady(ended % "OK", 1000, 20), steady(ended % "RESOURCE_EXHAUSTED", 900, 20)],
        19,
    )
    cache, theirs = (
        'genmesh_generator_kv_cache_usage_ratio{model="generator"}',
        'vllm:gpu_cache_usage_perc{model="generator",instance="gpu"}',
    )
    found["GenmeshKvCacheFull"] = [held(cache, 0.5, 30), held(theirs, 0.99, 30)], [held(cache, 0.5, 30)], 29
    failing = 'genmesh_embedding_model_requests_total{model="embedder",outcome="error"}'
    found["GenmeshModelFailing"] = [steady(failing, 6, 20)], [held(failing, 3, 20)], 19
    missed = 'genmesh_embedding_cache_failures_total{cache="embedding"}'
    found["GenmeshCacheFailing"] = [steady(missed, 1, 20)], [held(missed, 3, 20)], 19
    rejected, cited = "genmesh_rag_rejected_sentences_total", "genmesh_rag_citations_total"
    found["GenmeshUnsupportedAnswers"] = (
        [steady(rejected, 20, 120), steady(cited, 10, 120)],
        [steady(rejected, 5, 120), steady(cited, 10, 120)],
        119,
    )
    return found


def test_every_alert_has_a_case() -> None:
    assert set(cases()) == {alert.name for alert in rules.alerts()}
    assert "OK" in CODES


@pytest.mark.parametrize("alert", rules.alerts(), ids=lambda alert: alert.name)
def test_an_alert_fires_when_it_should_and_only_then(alert: rules.Alert, tmp_path: Path) -> None:
    firing, silent, minute = cases()[alert.name]
    step = next((STEPS[long] for _, long, _, _ in rules.BURNS if alert.name.endswith(f"Burn{long}")), 1)
    slower: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in slower["groups"]:
        group["interval"] = f"{step}m"
        group["rules"] = [rule for rule in group["rules"]
                          if rule.get("alert") == alert.name or ("record" in rule and rule["record"] in alert.expr)]  # fmt: skip
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(slower, sort_keys=False))
    (expected,) = [rule for group in slower["groups"] for rule in group["rules"] if rule.get("alert") == alert.name]
    tests = []
    for series, fires in ((firing, True), (silent, False)):
        count = f'count(ALERTS{{alertname="{alert.name}",alertstate="firing"}}) or vector(0)'
        tests.append({
            "interval": f"{step}m", "input_series": series,
            "promql_expr_test": [{"expr": count, "eval_time": f"{minute * step}m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}],
        })  # fmt: skip
    case = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{step}m", "tests": tests}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case, sort_keys=False))
    ran = subprocess.run(
        ["promtool", "test", "rules", "case.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert expected["annotations"]["runbook_url"].startswith("docs/alerts.md#")
