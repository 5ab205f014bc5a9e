"""Text from Triton's ``generator``, piece by piece, behind the tensors of Triton's vLLM backend."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from genmesh.v1 import common_pb2 as common
from genmesh.v1 import generation_pb2 as pb

from services.runtime import identity, tracing
from services.runtime.errors import Unavailable
from services.runtime.metrics import Generation, Tenants
from services.runtime.models import Card
from services.runtime.outcome import Stopwatch
from services.runtime.seeds import MOST_SEED, folded
from services.runtime.triton import Triton, scalar
from services.runtime.validation import Fields

FINISH = {
    "stop": common.FINISH_REASON_STOP,
    "length": common.FINISH_REASON_LENGTH,
    "cancelled": common.FINISH_REASON_CANCELLED,
    "abort": common.FINISH_REASON_CANCELLED,  # vLLM's
}
DEFAULT_MAX_TOKENS = 256
# name: least, most
RANGES = {
    "temperature": (0, 2), "top_p": (1e-6, 1), "top_k": (1, 1000), "seed": (0, MOST_SEED),
    "repetition_penalty": (0.1, 10), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
}  # fmt: skip
# And what each of them is where it changes nothing.
PENALTIES = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
# Logits that are divided by less leave float32's range; the likeliest token is as good as sure long before.
LEAST_TEMPERATURE = 1e-4


def parameters(sampling: pb.SamplingParameters, card: Card, prompt_tokens: int, adapter: str = "") -> dict[str, Any]:
    """vLLM's sampling parameters; INVALID_ARGUMENT names the field that is out of range."""
    card.check_adapter(adapter)
    fields = Fields()
    found: dict[str, Any] = {"temperature": 0.0, "max_tokens": DEFAULT_MAX_TOKENS}
    if sampling.HasField("max_tokens"):
        fields.number("sampling.max_tokens", sampling.max_tokens, 1, card.context_tokens)
        found["max_tokens"] = sampling.max_tokens
    for name, (least, most) in RANGES.items():
        if sampling.HasField(name):  # type: ignore[arg-type]
            value = getattr(sampling, name)
            fields.number(f"sampling.{name}", value, least, most)
            found[name] = value
            if value and card.facts.get("encoder_decoder") and name in ("presence_penalty", "frequency_penalty"):
                fields.fault(f"sampling.{name}", f"is not known to encoder-decoders, which {card.name} is")
    if found["temperature"] < LEAST_TEMPERATURE:
        found["temperature"] = 0.0
    if sampling.prompt_lookup and (
        found["temperature"] or adapter or any(found.get(name) not in (None, none) for name, none in PENALTIES.items())
    ):
        fields.fault("sampling.prompt_lookup", "needs a temperature of 0, no penalty and no adapter")
    fields.size("sampling.stop", sampling.stop, least=0, most=8)
    for i, stop in enumerate(sampling.stop):
        fields.text(f"sampling.stop[{i}]", stop, most=100, blank=True)
    fields.done()
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    if adapter:
        found["lora_name"] = adapter  # as Triton's vLLM backend calls it
    if sampling.prompt_lookup and card.facts.get("prompt_lookup_tokens"):
        found["prompt_lookup"] = True
    if sampling.ignore_eos:
        found["ignore_eos"] = True
    if "seed" in found:
        found["seed"] = folded(found["seed"])
    elif found["temperature"] > 0:
        found["seed"] = time.monotonic_ns() % 2**31
    found["max_tokens"] = min(found["max_tokens"], card.room(prompt_tokens))
    return found


@dataclass
class Piece:
    """What was added, or, last, how it ended."""

    text: str
    finish: common.FinishReason.ValueType = common.FINISH_REASON_UNSPECIFIED
    usage: common.Usage | None = None
    timings: common.StageTimings | None = None


class Generator:
    def __init__(self, triton: Triton, metrics: Generation) -> None:
        self.triton, self.metrics, self.tenants = triton, metrics, Tenants()

    async def stream(
        self, card: Card, prompt: str, sampling: dict[str, Any], prompt_tokens: int, operation: str, beginning: str
    ) -> AsyncGenerator[Piece, None]:
        """Pieces with text, then one with the end. Leaving early cancels the generation inside Triton.

        ``operation``: "chat" or "text_completion", for traces. ``beginning``: what prompts share whose KV cache can be
        shared; they go to one replica.
        """
        tensors = {
            "text_input": scalar(card.as_sent(prompt)),
            "stream": scalar(True, np.bool_),
            "sampling_parameters": scalar(json.dumps(sampling)),
            "exclude_input_in_output": scalar(True, np.bool_),
            "return_finish_reason": scalar(True, np.bool_),
            "return_num_output_tokens": scalar(True, np.bool_),
        }
        watch = Stopwatch()
        written, finish, first = 0, "", None
        metrics, model, tenant = self.metrics, card.name, self.tenants.label(identity.current().tenant)
        read = False
        try:
            async with aclosing(self.triton.stream(card, tensors, operation, beginning)) as results:
                async for result in results:
                    if not read:
                        read = True
                        metrics.input_tokens.labels(model).inc(prompt_tokens)
                        metrics.tenant_tokens.labels(tenant, "input").inc(prompt_tokens)
                    tokens = int(result.as_numpy("num_output_tokens").sum())
                    text = result.as_numpy("text_output").reshape(-1)[0].decode()
                    finish = result.as_numpy("finish_reason").reshape(-1)[0].decode()
                    finish = "" if finish == "None" else finish  # vLLM's word for a text that goes on
                    written += tokens
                    if tracing.on():
                        tracing.current().set_attributes(tracing.usage(prompt_tokens, written))
                        if finish:
                            tracing.current().set_attribute(tracing.gen_ai.GEN_AI_RESPONSE_FINISH_REASONS, [finish])
                    if tokens and first is None:
                        first = time.monotonic()
                        prefill = watch.stage("prefill")
                        metrics.model_ttft.labels(model).observe(prefill)
                        tracing.current().set_attribute(tracing.gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, prefill)
                    if text:
                        watch.content()
                        yield Piece(text)
        except (asyncio.CancelledError, GeneratorExit):
            if not finish:
                metrics.cancelled.labels(model).inc()
                metrics.saved_tokens.labels(model).inc(max(0, sampling["max_tokens"] - written))
            raise
        finally:
            metrics.output_tokens.labels(model).inc(written)
            metrics.tenant_tokens.labels(tenant, "output").inc(written)
        if not finish:
            raise Unavailable(f"{model} ended without saying why", reason="MODEL_UNAVAILABLE", retry_after_seconds=1.0)
        if first is not None and written > 1:
            metrics.per_output_token.labels(model).observe((time.monotonic() - first) / (written - 1))
        watch.stage("decode")
        yield Piece(
            "", FINISH.get(finish, common.FINISH_REASON_UNSPECIFIED),
            common.Usage(input_tokens=prompt_tokens, output_tokens=written), watch.timings(),
        )  # fmt: skip
