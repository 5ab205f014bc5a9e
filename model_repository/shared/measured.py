"""What the models tell Prometheus through Triton: the declarations, and what makes them in a model.

The build copies this file beside each ``model.py`` that measures. docs/metrics.md is made from ``DECLARED``.
Each series has the labels ``model`` and ``version``.
"""

from __future__ import annotations

import traceback
from typing import Any

COUNTER, GAUGE = "counter", "gauge"
# family: {name: (kind, text)}; the metric is genmesh_<family>_<name>
DECLARED: dict[str, dict[str, tuple[str, str]]] = {
    "generator": {
        "last_step_timestamp_seconds": (GAUGE, "When an engine with work last made a step (or got work), seconds since 1970."),
        "running_requests": (GAUGE, "Requests that hold a slot of the engine."),
        "waiting_requests": (GAUGE, "Requests that wait for a slot."),
        "loaded_adapters": (GAUGE, "LoRA adapters that an engine is held for."),
        "kv_cache_usage_ratio": (GAUGE, "Share of the KV cache in use, 0 to 1; the fullest engine's."),
        "prefix_cache_queried_tokens_total": (COUNTER, "Tokens of prompts that the prefix cache was asked for."),
        "prefix_cache_hit_tokens_total": (
            COUNTER, "Of these, tokens of whole blocks that an earlier prompt had brought into the KV cache."
        ),
        "cancelled_requests_total": (COUNTER, "Requests dropped because their client went away."),
        "saved_tokens_total": (COUNTER, "Tokens that cancelled requests would still have asked for."),
    },
    "reranker": {
        "passages_total": (COUNTER, "Passages and sentences that were scored by late interaction, each once a batch of requests."),
        "kept_passages_total": (COUNTER, "Of these, those whose token vectors were kept from an earlier question."),
    },
    "diffuser": {
        "running_requests": (GAUGE, "Images that are being drawn."),
        "waiting_requests": (GAUGE, "Images that wait."),
        "cancelled_requests_total": (COUNTER, "Images dropped because their client went away."),
        "saved_steps_total": (COUNTER, "Steps that cancelled images did not run."),
    },
}  # fmt: skip


class Measured:
    """The metrics of one family for one version of a model. A metric that Triton does not take is logged, never raised: it
    must not end the request, or the engine, that it is about."""

    def __init__(self, family: str, args: dict[str, str]) -> None:
        """``args``: what Triton gives to ``initialize``."""
        import triton_python_backend_utils as pb_utils  # there inside Triton only

        kinds = {COUNTER: pb_utils.MetricFamily.COUNTER, GAUGE: pb_utils.MetricFamily.GAUGE}
        labels = {"model": args["model_name"], "version": args["model_version"]}
        # A family must outlive its metrics. None is given back: that crashes Triton where another version of the model runs,
        # and at the interpreter's end, with the shared memory gone, no more than the process that ends.
        self._families: list[Any] = []
        self._metrics: dict[str, Any] = {}
        # What Triton was told last: telling it anything is a message to another process and back.
        self._gauges: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        for name, (kind, text) in DECLARED[family].items():
            made = pb_utils.MetricFamily(name=f"genmesh_{family}_{name}", description=text, kind=kinds[kind])
            self._families.append(made)
            self._metrics[name] = made.Metric(labels=labels)

    def set(self, name: str, value: float) -> None:
        """A gauge's value now."""
        if self._gauges.get(name) != value:
            try:
                self._metrics[name].set(value)
            except Exception:
                traceback.print_exc()
            else:
                self._gauges[name] = value

    def increment(self, name: str, by: float) -> bool:
        """Whether Triton took it."""
        try:
            self._metrics[name].increment(by)
        except Exception:
            traceback.print_exc()
            return False
        return True

    def reached(self, name: str, total: float) -> None:
        """A counter's total so far; one that is less than was told before changes nothing."""
        by = total - self._counted.get(name, 0)
        if by > 0 and self.increment(name, by):
            self._counted[name] = total
