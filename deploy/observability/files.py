"""Each generated file and what stands in it."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from prometheus_client import Counter, Gauge

from deploy.images import vector_store
from deploy.observability import dashboards, rules
from services.runtime.metrics import FAMILIES, Declared, Open

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "genmesh"
RULES = CHART / "rules" / "genmesh.yaml"
NOTE = "made by `make observability`; change deploy/observability and the declarations, not this file"
# Of Triton's own metrics, those that the dashboards use.
TRITON = {
    "nv_inference_queue_duration_us": ("counter", "Time that requests waited in Triton's queue, microseconds.", "model, version"),
    "nv_inference_exec_count": ("counter", "Batches that a model ran.", "model, version"),
}  # fmt: skip

REDIS = {
    "redis_memory_used_bytes": ("gauge", "What its entries and clients take."),
    "redis_memory_max_bytes": ("gauge", "What it may take."),
    "redis_evicted_keys_total": ("counter", "Entries that went because there was no room."),
    "redis_connected_clients": ("gauge", "Connections."),
}


def _labels(declared: Declared) -> str:
    parts = []
    for label, values in declared.labels.items():
        shown = values.text if isinstance(values, Open) else ", ".join(f"`{v}`" for v in values)
        if not isinstance(values, Open) and len(values) > 12:
            shown = "gRPC status code"
        parts.append(f"`{label}`: {shown}")
    return "<br>".join(parts)


def _kind(declared: Declared) -> str:
    return "counter" if declared.kind is Counter else "gauge" if declared.kind is Gauge else "histogram"


def models_metrics() -> dict[str, dict[str, tuple[str, str]]]:
    """What the models in Triton export: their declarations."""
    folder = str(ROOT / "model_repository" / "shared")
    sys.path.insert(0, folder)
    try:
        import measured  # type: ignore[import-not-found]
    finally:
        sys.path.remove(folder)
    found: dict[str, dict[str, tuple[str, str]]] = measured.DECLARED
    return found


def vector_store_metrics() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """What the built-in vector store exports: name -> kind, text, labels."""
    made = (vector_store.duration, vector_store.waiting, vector_store.collections)
    return {one.name: (one.type, one.documentation, metric._labelnames) for metric in made for one in metric.describe()}


def metrics_table() -> str:
    lines = [
        "# Metrics", "", f"<!-- {NOTE} -->", "",
        "Each service exports these at its metrics port under `/metrics`. Names end in their unit; counters end in `_total`.",
        "Durations are in seconds on a monotonic clock. Each series whose labels are known exists from the start, at zero.", "",
        "TTFT (time to first token) has one definition: from the arrival of a request at a server to the first message with",
        "content leaving it. The client's own, from sending to the first content received, is what Locust reports beside it.", "",
    ]  # fmt: skip
    for family in FAMILIES:
        services = family.services
        first = " ".join((family.__doc__ or "").split()) or f"Of `{services[0]}` alone."
        where = "every service" if len(services) > 6 else ", ".join(f"`{s}`" for s in services)
        shown = services[0] if len(services) == 1 else "<service>"
        lines += [
            f"## {family.__name__}: {where}",
            "",
            first,
            "",
            "| metric | kind | labels | what |",
            "| --- | --- | --- | --- |",
        ]
        for declared in family.declared().values():
            name = declared.name(shown)
            lines.append(f"| `{name}` | {_kind(declared)} | {_labels(declared)} | {declared.help} |")
        lines.append("")
    lines += ["## Models in Triton", "", "At Triton's metrics port; each has the labels `model` and `version`.", "",
              "| metric | kind | what |", "| --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| `genmesh_{family}_{name}` | {kind} | {text} |"
        for family, declared_ in models_metrics().items()
        for name, (kind, text) in declared_.items()
    ]
    lines += ["", "## The built-in vector store", "", "At its own metrics port.", "",
              "| metric | kind | labels | what |", "| --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"
        for name, (kind, text, labels) in vector_store_metrics().items()
    ]
    lines += [
        "",
        "## Triton's own that the dashboards use",
        "",
        "| metric | kind | labels | what |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{name}` | {kind} | {labels} | {text} |" for name, (kind, text, labels) in TRITON.items()]
    lines += ["", "## The Redis exporter's that the dashboards use", "", "Of a built-in Redis, at its exporter's port.", "",
              "| metric | kind | what |", "| --- | --- | --- |"]  # fmt: skip
    lines += [f"| `{name}` | {kind} | {text} |" for name, (kind, text) in REDIS.items()]
    lines += [
        "",
        "## Buckets",
        "",
        "Upper bounds of the histograms, in their unit.",
        "",
        "| metrics | bounds |",
        "| --- | --- |",
    ]
    bounds: dict[tuple[float, ...], list[str]] = {}
    for family in FAMILIES:
        for declared in family.declared().values():
            if declared.buckets:
                shown = family.services[0] if len(family.services) == 1 else "<service>"
                bounds.setdefault(declared.buckets, []).append(f"`{declared.name(shown)}`")
    lines += [f"| {'<br>'.join(names)} | {', '.join(map(str, values))} |" for values, names in bounds.items()]
    lines += ["", "## Recording rules", "", "| series | expression |", "| --- | --- |"]
    lines += [f"| `{r.name}`{_rule_labels(r)} | `{r.expr.replace('|', chr(92) + '|')}` |" for r in rules.records()]
    return "\n".join(lines) + "\n"


def _rule_labels(record: rules.Record) -> str:
    return "".join(f" `{k}={v}`" for k, v in record.labels.items())


def alerts_table() -> str:
    lines = [
        "# Alerts", "", f"<!-- {NOTE} -->", "",
        f"Objectives over 30 days: {rules.AVAILABILITY:.1%} of calls do not fail by the cluster's own fault"
        f" ({rules.FAULTS.replace('|', ', ')}), and {rules.TTFT:.0%} of text streams have their first token within"
        f" {float(rules.TTFT_SECONDS):g} s at the gateway.", "",
    ]  # fmt: skip
    for alert in rules.alerts():
        lines += [f"## {alert.name}", "", f"{alert.severity}, after {alert.wait}: {alert.summary}", "",
                  f"    {alert.expr}", "", f"What to do: {alert.action}", ""]  # fmt: skip
    return "\n".join(lines)


def files() -> dict[Path, str]:
    found = {
        ROOT / "docs" / "metrics.md": metrics_table(),
        ROOT / "docs" / "alerts.md": alerts_table(),
        RULES: f"# {NOTE}\n" + yaml.safe_dump(rules.rules(), sort_keys=False, width=1000),
    }
    return found | {CHART / "dashboards" / f"{uid}.json": dashboards.dashboard(uid) for uid in dashboards.DASHBOARDS}
