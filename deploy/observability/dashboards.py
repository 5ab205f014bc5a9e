"""Grafana dashboards, built with Grafana's own SDK, so that their JSON is what its schema says."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from deploy.observability.rules import KV_CACHE, RUNNING, TEXT_METHODS, WAITING
from services.runtime.metrics import SERVICES

RATE = "$__rate_interval"
WIDTH, HEIGHT = 12, 8
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Curve:
    expr: str
    legend: str


@dataclass(frozen=True)
class Graph:
    """A panel: its unit is Grafana's name of it."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    text: str = ""


def rate(metric: str, by: str = "", where: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[{RATE}]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    return f"histogram_quantile({share}, {rate(metric + '_bucket', f'le, {by}' if by else 'le', where)})"


def quantiles(metric: str, where: str = "") -> tuple[Curve, ...]:
    return tuple(Curve(quantile(share, metric, where=where), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


def each(expr: str, names: tuple[str, ...] = SERVICES) -> tuple[Curve, ...]:
    """One curve a service; ``expr`` has {} where its name goes."""
    return tuple(Curve(expr.replace("{}", name), name) for name in names)


TEXT = f'{{method=~"{TEXT_METHODS}"}}'
CACHED = ("tokenization", "embedding")

DASHBOARDS: dict[str, tuple[str, tuple[Graph, ...]]] = {
    "genmesh-overview": (
        "Genmesh / Overview",
        (
            Graph("Calls", "reqps", (Curve(rate("genmesh_gateway_requests_total", "method"), "{{method}}"),)),
            Graph("Calls that did not end with OK", "reqps",
                  (Curve(rate("genmesh_gateway_requests_total", "code", '{code!="OK"}'), "{{code}}"),)),
            Graph("TTFT", "s", quantiles("genmesh_gateway_time_to_first_token_seconds", TEXT),
                  "From a stream's arrival at the gateway to the first message with content leaving it."),
            Graph("Tokens written", "short", (Curve(rate("genmesh_generation_output_tokens_total", "model"), "{{model}}"),),
                  "Tokens a second."),
            Graph("Latency of calls, p95", "s",
                  (Curve(quantile(0.95, "genmesh_gateway_request_duration_seconds", "method"), "{{method}}"),)),
            Graph("Streams by how they ended", "reqps", (Curve(rate("genmesh_gateway_streams_total", "end"), "{{end}}"),)),
            Graph("Saturation", "percentunit", (Curve("max by (service) (genmesh:saturation:ratio)", "{{service}}"),),
                  "Calls that run, of those that may run at once."),
            Graph("Calls turned away", "reqps", each("sum(rate(genmesh_{}_requests_refused_total[$__rate_interval]))")),
            Graph("Calls sent again", "reqps",
                  (*each("sum(rate(genmesh_{}_retried_requests_total[$__rate_interval]))"),
                   Curve('sum(rate({__name__=~"genmesh_.+_model_retries_total"}[$__rate_interval]))', "to Triton"),
                   Curve("sum(rate(genmesh_vector_search_store_retries_total[$__rate_interval]))", "to Milvus")),
                  "By callers' retry policies; a storm of them shows here first."),
            Graph("Error budget: share of calls that fail by our fault", "percentunit",
                  (Curve("genmesh:gateway_faults:ratio_rate5m", "5 min"), Curve("genmesh:gateway_faults:ratio_rate1h", "1 h"))),
            Graph("TTFT budget: share of slow streams", "percentunit",
                  (Curve("genmesh:gateway_slow_ttft:ratio_rate5m", "5 min"),
                   Curve("genmesh:gateway_slow_ttft:ratio_rate1h", "1 h"))),
            Graph("CPU", "short", (Curve("rate(process_cpu_seconds_total[$__rate_interval])", "{{job}}"),), "Cores in use."),
            Graph("Memory", "bytes", (Curve("process_resident_memory_bytes", "{{job}}"),)),
            Graph("Parts that answer", "short", (Curve("min by (upstream) (genmesh_gateway_upstream_up)", "{{upstream}}"),)),
            Graph("Triton: time in its queues", "s",
                  (Curve("sum by (model) (rate(nv_inference_queue_duration_us[$__rate_interval])) / 1e6"
                         " / sum by (model) (rate(nv_inference_exec_count[$__rate_interval]) > 0)", "{{model}}"),)),
        ),
    ),
    "genmesh-generation": (
        "Genmesh / Generation",
        (
            Graph("Tokens read and written", "short",
                  (Curve(rate("genmesh_generation_input_tokens_total", "model"), "{{model}} read"),
                   Curve(rate("genmesh_generation_output_tokens_total", "model"), "{{model}} written"))),
            Graph("Model's TTFT (queue and prefill)", "s", quantiles("genmesh_generation_model_time_to_first_token_seconds")),
            Graph("TTFT at the gateway", "s", quantiles("genmesh_gateway_time_to_first_token_seconds", TEXT)),
            Graph("Time per output token", "s", quantiles("genmesh_generation_time_per_output_token_seconds")),
            Graph("Inter-token latency at the gateway", "s",
                  quantiles("genmesh_gateway_inter_token_latency_seconds", TEXT)),
            Graph("Requests in the engine", "short",
                  (Curve(f"sum({RUNNING})", "running"),
                   Curve(f"sum({WAITING})", "waiting"))),
            Graph("KV cache in use", "percentunit", (Curve(f"max({KV_CACHE})", "fullest engine"),)),
            Graph("Prefix cache: tokens found", "percentunit", (Curve("genmesh:prefix_cache_hit:ratio_rate5m", "hit ratio"),)),
            Graph("Cancelled generations", "reqps",
                  (Curve(rate("genmesh_generation_cancelled_total"), "cancelled"),)),
            Graph("Tokens that cancellation saved", "short",
                  (Curve(rate("genmesh_generation_saved_tokens_total"), "tokens a second"),)),
            Graph("Requests to Triton", "reqps",
                  (Curve(rate("genmesh_generation_model_requests_total", "model, outcome"), "{{model}} {{outcome}}"),)),
            Graph("Adapters loaded", "short", (Curve("sum(genmesh_generator_loaded_adapters)", "adapters"),)),
            Graph("Images and steps", "short",
                  (Curve(rate("genmesh_diffusion_images_total"), "images a second"),
                   Curve(rate("genmesh_diffusion_steps_total"), "steps a second"))),
            Graph("Time of a diffusion step", "s", quantiles("genmesh_diffusion_step_duration_seconds")),
        ),
    ),
    "genmesh-rag": (
        "Genmesh / RAG",
        (
            Graph("Answers by grounding", "reqps", (Curve(rate("genmesh_rag_answers_total", "grounding"), "{{grounding}}"),)),
            Graph("TTFT of answers", "s", quantiles("genmesh_rag_time_to_first_token_seconds", '{method="StreamAnswer"}')),
            Graph("Stages, p95", "s", (Curve(quantile(0.95, "genmesh_rag_stage_duration_seconds", "stage"), "{{stage}}"),)),
            Graph("Stages, mean", "s",
                  (Curve(rate("genmesh_rag_stage_duration_seconds_sum", "stage") + " / "
                         + rate("genmesh_rag_stage_duration_seconds_count", "stage"), "{{stage}}"),)),
            Graph("Optional stages", "reqps",
                  (Curve(rate("genmesh_rag_optional_stages_total", "stage, outcome"), "{{stage}} {{outcome}}"),)),
            Graph("Citations and rejected sentences", "short",
                  (Curve(rate("genmesh_rag_citations_total"), "citations a second"),
                   Curve(rate("genmesh_rag_rejected_sentences_total"), "rejected a second"))),
            Graph("Documents ingested", "short", (Curve(rate("genmesh_rag_documents_total", "outcome"), "{{outcome}} a second"),)),
            Graph("Passages stored", "short", (Curve(rate("genmesh_rag_passages_stored_total"), "passages a second"),)),
            Graph("Models that retrieve, p95", "s",
                  (Curve(quantile(0.95, "genmesh_embedding_model_request_duration_seconds", "model"), "{{model}}"),)),
            Graph("Texts a request to Triton", "short",
                  (Curve(rate("genmesh_embedding_batch_size_inputs_sum") + " / "
                         + rate("genmesh_embedding_batch_size_inputs_count"), "mean"),)),
            Graph("Milvus, p95", "s",
                  (Curve(quantile(0.95, "genmesh_vector_search_store_duration_seconds", "operation"), "{{operation}}"),)),
            Graph("Built-in vector store, p95", "s",
                  (Curve(quantile(0.95, "genmesh_milvus_lite_call_duration_seconds", "method"), "{{method}}"),), "Milvus Lite's own time."),
            Graph("Built-in vector store: changes that wait", "short",
                  (Curve("genmesh_milvus_lite_waiting_changes", "changes"),), "Many: one collection is written by many clients."),
            Graph("Vectors", "short",
                  (Curve(rate("genmesh_vector_search_queries_total"), "searched a second"),
                   Curve(rate("genmesh_vector_search_entities_upserted_total"), "stored a second"))),
        ),
    ),
    "genmesh-caches-tenants": (
        "Genmesh / Caches and tenants",
        (
            Graph("Cache hits", "percentunit", (Curve("genmesh:cache_hit:ratio_rate5m", "{{service}} {{cache}}"),)),
            Graph("Entries looked up", "short",
                  tuple(Curve(rate(f"genmesh_{name}_cache_lookups_total", "outcome"), name + " {{outcome}}") for name in CACHED)),
            Graph("Look-up, p95", "s",
                  each("histogram_quantile(0.95, sum by (le) (rate(genmesh_{}_cache_lookup_duration_seconds_bucket[$__rate_interval])))",
                       CACHED)),
            Graph("Cache failures", "short", each("sum(rate(genmesh_{}_cache_failures_total[$__rate_interval]))", CACHED)),
            Graph("Redis: memory", "bytes",
                  (Curve("redis_memory_used_bytes", "used"), Curve("redis_memory_max_bytes", "most")), "Of a built-in Redis."),
            Graph("Redis: entries evicted", "short", (Curve(rate("redis_evicted_keys_total"), "a second"),),
                  "Of a built-in Redis: each may cost its next call a computation. Many: raise redis.maxMemory."),
            Graph("Redis: connections", "short", (Curve("redis_connected_clients", "clients"),), "Of a built-in Redis."),
            Graph("Entries that another call was computing", "short",
                  each("sum(rate(genmesh_{}_cache_joined_computations_total[$__rate_interval]))", CACHED)),
            Graph("Calls by tenant", "reqps", (Curve(rate("genmesh_gateway_tenant_requests_total", "tenant"), "{{tenant}}"),)),
            Graph("Failed calls by tenant", "reqps",
                  (Curve(rate("genmesh_gateway_tenant_requests_total", "tenant, code", '{code!="OK"}'), "{{tenant}} {{code}}"),)),
            Graph("Generation: tokens by tenant", "short",
                  (Curve(rate("genmesh_generation_tenant_tokens_total", "tenant, direction"), "{{tenant}} {{direction}}"),)),
            Graph("Embedding: tokens by tenant", "short",
                  (Curve(rate("genmesh_embedding_tenant_tokens_total", "tenant"), "{{tenant}}"),)),
            Graph("Calls without a valid key", "reqps",
                  (Curve(rate("genmesh_gateway_unauthenticated_requests_total", "reason"), "{{reason}}"),)),
        ),
    ),
}  # fmt: skip


def panel(graph: Graph) -> timeseries.Panel:
    legend = (
        VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.RIGHT).calcs(["mean", "max"])
    )
    made = (
        timeseries.Panel().title(graph.title).description(graph.text).unit(graph.unit).min(0).datasource(SOURCE)
        .span(WIDTH).height(HEIGHT).legend(legend)
        .fill_opacity(8).line_width(1)
    )  # fmt: skip
    for letter, curve in zip(ascii_uppercase, graph.curves, strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(curve.expr).legend_format(curve.legend).datasource(SOURCE)
        made = made.with_target(query)
    return made


def dashboard(uid: str) -> str:
    """The JSON of one dashboard."""
    title, graphs = DASHBOARDS[uid]
    made = (
        build.Dashboard(title).uid(uid).tags(["genmesh"]).refresh("10s").time("now-30m", "now").editable()
        .with_variable(build.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    )  # fmt: skip
    for graph in graphs:
        made = made.with_panel(panel(graph))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"
