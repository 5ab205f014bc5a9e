"""Recording rules and alerts.

Objectives are over 30 days. Burn-rate alerts follow the multi-window scheme of the Site Reliability Workbook, chapter 5:
a long window says that the budget is spent, a short one that it still is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.runtime.metrics import SERVICES, TEXT_STREAMS

# Share of the gateway's calls that do not fail by our fault, and of its streams whose TTFT is at most TTFT_SECONDS.
AVAILABILITY, TTFT = 0.999, 0.95
TTFT_SECONDS = "1.0"  # a bucket's bound
FAULTS = "UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS"
TEXT_METHODS = "|".join(TEXT_STREAMS)
# What a caller did wrong or may not have; such a stream has no first token and needs none.
REFUSED = (
    "INVALID_ARGUMENT|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION"
    "|OUT_OF_RANGE|UNIMPLEMENTED"
)
# (burn rate, long window, short window, severity): the four of the workbook for 30 days.
BURNS = ((14.4, "1h", "5m", "page"), (6, "6h", "30m", "page"), (3, "1d", "2h", "ticket"), (1, "3d", "6h", "ticket"))
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
RUNBOOK = "docs/alerts.md"
# Of the engine that generates: OpenVINO's on CPUs, vLLM's on GPUs.
RUNNING, WAITING, KV_CACHE = (
    f'{{__name__=~"genmesh_generator_{ours}|vllm:{theirs}"}}'
    for ours, theirs in (
        ("running_requests", "num_requests_running"),
        ("waiting_requests", "num_requests_waiting"),
        ("kv_cache_usage_ratio", "(gpu|kv)_cache_usage_perc"),
    )
)


@dataclass(frozen=True)
class Record:
    """One recording rule."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def rule(self) -> dict[str, Any]:
        return {"record": self.name, "expr": self.expr} | ({"labels": self.labels} if self.labels else {})


@dataclass(frozen=True)
class Alert:
    """``signals`` must all be true; each is (an expression with data, a comparison)."""

    name: str
    signals: tuple[tuple[str, str], ...]
    wait: str
    severity: str
    summary: str
    action: str

    @property
    def expr(self) -> str:
        return " and ".join(f"{left} {comparison}" for left, comparison in self.signals)

    def rule(self) -> dict[str, Any]:
        notes = {"summary": self.summary, "runbook_url": f"{RUNBOOK}#{self.name.lower()}"}
        return {"alert": self.name, "expr": self.expr, "for": self.wait, "labels": {"severity": self.severity},
                "annotations": notes}  # fmt: skip


def _quantile(share: float, metric: str, by: str = "", where: str = "", window: str = "5m") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{where}[{window}])))"


def records() -> list[Record]:
    found = []
    for window in WINDOWS:
        calls = f"genmesh_gateway_requests_total[{window}]"
        faults = f'genmesh_gateway_requests_total{{code=~"{FAULTS}"}}[{window}]'
        found.append(Record(f"genmesh:gateway_faults:ratio_rate{window}", f"sum(rate({faults})) / sum(rate({calls}))"))
        ttft = f'genmesh_gateway_time_to_first_token_seconds_{{}}{{{{method=~"{TEXT_METHODS}"{{}}}}}}[{window}]'
        fast, all_ = ttft.format("bucket", f',le="{TTFT_SECONDS}"'), ttft.format("count", "")
        found.append(
            Record(f"genmesh:gateway_slow_ttft:ratio_rate{window}", f"1 - sum(rate({fast})) / sum(rate({all_}))")
        )
    ttft_metric, streams = "genmesh_gateway_time_to_first_token_seconds", f'{{method=~"{TEXT_METHODS}"}}'
    # What autoscaling looks at (the chart's ttftQuery): five minutes would remember a burst for too long.
    found.append(
        Record(
            "genmesh:gateway_ttft_seconds:p95_1m", _quantile(0.95, ttft_metric, "namespace", where=streams, window="1m")
        )
    )
    for share in (0.5, 0.95, 0.99):
        name = f"p{share * 100:.0f}"
        found.append(
            Record(f"genmesh:gateway_ttft_seconds:{name}_5m",
                   _quantile(share, ttft_metric, where=streams))
        )  # fmt: skip
        found.append(
            Record(
                f"genmesh:gateway_request_duration_seconds:{name}_5m",
                _quantile(share, "genmesh_gateway_request_duration_seconds", "method"),
            )
        )
    found += [
        Record("genmesh:saturation:ratio",
               f"genmesh_{name}_requests_in_flight / genmesh_{name}_concurrency_limit_requests", {"service": name})
        for name in SERVICES
    ]  # fmt: skip
    found += [
        Record("genmesh:generation_output_tokens:rate5m", "sum by (model) (rate(genmesh_generation_output_tokens_total[5m]))"),
        Record("genmesh:prefix_cache_hit:ratio_rate5m",
               "sum(rate(genmesh_generator_prefix_cache_hit_tokens_total[5m]))"
               " / sum(rate(genmesh_generator_prefix_cache_queried_tokens_total[5m]))"),
    ]  # fmt: skip
    found += [
        Record("genmesh:cache_hit:ratio_rate5m",
               f'sum by (cache) (rate(genmesh_{name}_cache_lookups_total{{outcome="hit"}}[5m]))'
               f" / sum by (cache) (rate(genmesh_{name}_cache_lookups_total[5m]))", {"service": name})
        for name in ("tokenization", "embedding")
    ]  # fmt: skip
    return found


def alerts() -> list[Alert]:
    found = []
    for what, record, objective, text in (
        ("Availability", "gateway_faults", AVAILABILITY, "calls fail by the cluster's own fault"),
        ("Ttft", "gateway_slow_ttft", TTFT, f"streams take longer than {TTFT_SECONDS} s to their first token"),
    ):
        for burn, long, short, severity in BURNS:
            most = f"> {round(burn * (1 - objective), 6)}"
            found.append(
                Alert(
                    f"Genmesh{what}Burn{long}",
                    ((f"genmesh:{record}:ratio_rate{long}", most), (f"genmesh:{record}:ratio_rate{short}", most)),
                    "2m" if severity == "page" else "15m", severity,
                    f"Of the month's error budget {burn:g} times the even share is being spent: too many {text}.",
                    "Look at the overview dashboard: which method and code (or which stage) it is, and since which release."
                    " Roll back if it began with one; else add replicas of the saturated service.",
                )
            )  # fmt: skip
    found += [
        Alert("GenmeshPartDown",
              (('min by (job, instance) ({__name__=~"up|redis_up",job=~"genmesh-.*|redis|milvus"})', "== 0"),), "2m", "page",
              "{{ $labels.job }} at {{ $labels.instance }} does not answer Prometheus, or Redis not its exporter.",
              "See its log; on Kubernetes `kubectl describe pod` tells whether it was killed, moved or cannot start."),
        Alert("GenmeshTritonDown", (('up{job="triton"}', "== 0"),), "15m", "page",
              "Triton at {{ $labels.instance }} has not answered Prometheus for longer than models may take to load.",
              "See its log for the model that does not load. Others of its replicas serve on; `GenmeshUpstreamNotServing` tells "
              "where none does."),
        # The best of a minute, not the moment: one scrape that fails would begin the wait anew.
        Alert("GenmeshUpstreamNotServing", (("min by (upstream) (max_over_time(genmesh_gateway_upstream_up[1m]))", "== 0"),),
              "30s", "page",
              "{{ $labels.upstream }} does not serve behind the gateway.",
              "The status page names the dependency that fails: Triton's model, Milvus, or the service itself."),
        Alert("GenmeshOverloaded", (('sum(rate(genmesh_gateway_requests_refused_total{reason="OVERLOADED"}[1m]))', "> 0"),),
              "5m", "page", "The gateway has turned calls away for five minutes: it is at its limit of concurrent calls.",
              "Add gateway replicas, or raise the limit if the parts behind it are idle (saturation, overview dashboard)."),
        Alert("GenmeshSaturated", (("max by (service) (genmesh:saturation:ratio)", "> 0.9"),), "5m", "ticket",
              "{{ $labels.service }} runs more than 90 % of the calls it may run at once.",
              "Add replicas before calls are refused."),
        Alert("GenmeshEventLoopLag",
              (('histogram_quantile(0.99, sum by (job, instance, le)'
                ' (rate({__name__=~"genmesh_.+_event_loop_lag_seconds_bucket"}[5m])))', "> 0.25"),),
              "5m", "ticket", "The event loop of {{ $labels.job }} at {{ $labels.instance }} is late: every call waits there.",
              "Work of the processor holds it up, or the processor is too busy: see which method the time goes to (dashboard of "
              "the service) and what its CPU limit is; add replicas."),
        Alert("GenmeshGenerationQueueing", ((f"sum(avg_over_time({WAITING}[5m]))", "> 8"),), "5m",
              "page", "More than 8 prompts wait for a slot of the generator on average.",
              "Add Triton replicas, or lower max_tokens; TTFT grows with this queue."),
        Alert("GenmeshEngineStuck",
              (("time() - genmesh_generator_last_step_timestamp_seconds", "> 30"),
               ("(genmesh_generator_running_requests + genmesh_generator_waiting_requests)", "> 0")),
              "30s", "page",
              "The engine of {{ $labels.model }} at {{ $labels.instance }} has requests and has made no step for 30 seconds.",
              "Triton's log there may say why. `kill` the model's process (triton_python_backend_stub) or delete the pod: "
              "Triton starts anew, callers are told UNAVAILABLE and go to other replicas."),
        Alert("GenmeshStreamsWithoutToken",
              ((f'1 - sum(rate(genmesh_gateway_time_to_first_token_seconds_count{{method=~"{TEXT_METHODS}"}}[5m]))'
                f' / sum(rate(genmesh_gateway_requests_total{{method=~"{TEXT_METHODS}",code!~"{REFUSED}"}}[5m]))', "> 0.1"),),
              "5m", "page", "More than a tenth of the streams of text end without a first token.",
              "Callers gave up or met their deadlines: see whether an engine makes steps (`GenmeshEngineStuck`), how long "
              "its queue is, and which stage takes the time (dashboard of generation)."),
        Alert("GenmeshKvCacheFull", ((f"max({KV_CACHE})", "> 0.95"),), "10m", "ticket",
              "The generator's KV cache has been over 95 % full for ten minutes; requests are preempted.",
              "Raise kv_cache_gigabytes (gpu_memory_utilization on GPUs) in models.yaml, or add replicas."),
        Alert("GenmeshModelFailing",
              (('sum by (model) (rate({__name__=~"genmesh_.+_model_requests_total",outcome="error"}[5m]))', "> 0.02"),),
              "5m", "page", "Triton's {{ $labels.model }} fails requests.",
              "See Triton's log; if it began with a new version, `helm rollback` on Kubernetes, where models come with "
              "Triton's image, else `genmesh-models rollback {{ $labels.model }} --triton HOST:PORT`."),
        Alert("GenmeshCacheFailing", (('sum by (cache) (rate({__name__=~"genmesh_.+_cache_failures_total"}[1m]))', "> 0"),),
              "5m", "ticket", "The {{ $labels.cache }} cache does not answer; calls cost full computations meanwhile.",
              "Look at Redis: memory, connections, whether it runs. No call fails for this."),
        Alert("GenmeshUnsupportedAnswers",
              (("sum(rate(genmesh_rag_rejected_sentences_total[1h])) / sum(rate(genmesh_rag_citations_total[1h]))", "> 1"),),
              "30m", "ticket", "More sentences of the generator fail the citation check than pass it.",
              "Compare with the release before: prompt, generator or retrieval changed for the worse."),
    ]  # fmt: skip
    return found


def rules() -> dict[str, Any]:
    """The rule file, as Prometheus reads it."""
    return {
        "groups": [
            {"name": "genmesh-records", "interval": "15s", "rules": [record.rule() for record in records()]},
            {"name": "genmesh-alerts", "interval": "15s", "rules": [alert.rule() for alert in alerts()]},
        ]
    }
