"""The objectives of ``slo.yaml``: what one call must keep to be good, and what all calls together must keep."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field, model_validator

from loadtest.measures import Board, Call, Tally
from loadtest.scenarios import FOLDER, OPERATIONS, ScenarioError, Strict, parse, read_mapping

OBJECTIVES = FOLDER / "slo.yaml"


class Bounds(Strict):
    """What one call must keep, in milliseconds; what is not set is free."""

    ttft_ms: float | None = Field(default=None, gt=0, description="To the first content, from when the call was due.")
    itl_ms: float | None = Field(default=None, gt=0, description="Mean gap between its messages with content.")
    latency_ms: float | None = Field(default=None, gt=0, description="To its end, from when it was due.")

    def kept(self, call: Call) -> bool:
        """Whether a call ended well and within the bounds; a TTFT that is bounded has to be there."""
        ttft = math.inf if call.ttft is None else call.ttft
        pairs = ((ttft, self.ttft_ms), (call.mean_gap or 0.0, self.itl_ms), (call.latency, self.latency_ms))
        return not call.error and all(bound is None or value * 1000 <= bound for value, bound in pairs)


class Objective(Strict):
    """What all calls of an operation must keep; each is optional. Quantiles are over all arrivals of the run."""

    call: Bounds = Bounds()
    goodput: float | None = Field(default=None, gt=0, le=1, description="The least share of arrivals that keep `call`.")
    error_rate: float | None = Field(
        default=None, ge=0, lt=1, description="The greatest share that fails or is dropped."
    )
    ttft_p50_ms: float | None = Field(default=None, gt=0)
    ttft_p95_ms: float | None = Field(default=None, gt=0)
    ttft_p99_ms: float | None = Field(default=None, gt=0)
    itl_p50_ms: float | None = Field(default=None, gt=0)
    itl_p95_ms: float | None = Field(default=None, gt=0)
    itl_p99_ms: float | None = Field(default=None, gt=0)
    itl_call_p50_ms: float | None = Field(default=None, gt=0)
    itl_call_p95_ms: float | None = Field(default=None, gt=0)
    itl_call_p99_ms: float | None = Field(default=None, gt=0)
    latency_p50_ms: float | None = Field(default=None, gt=0)
    latency_p95_ms: float | None = Field(default=None, gt=0)
    latency_p99_ms: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _some(self) -> Objective:
        if not self.model_fields_set:
            raise ValueError("no objective is set")
        return self


NO_OBJECTIVE = Objective.model_construct()
Objectives = dict[str, Objective]


def load(path: Path = OBJECTIVES) -> Objectives:
    """The objectives of a file, by operation."""
    found = {}
    for name, entry in read_mapping(path).items():
        if name not in OPERATIONS:
            raise ScenarioError(f"{path.name}: {name} is no operation; there are {', '.join(OPERATIONS)}.")
        found[name] = parse(Objective, entry, f"{path.name}: {name}")
    return found


def broken(objectives: Objectives, board: Board, operations: list[str]) -> list[str]:
    """A sentence for each objective that these operations broke; none where all were kept."""
    sentences = []
    for name in operations:
        if name in objectives:
            sentences += [f"{name}: {text}" for text in _broken(objectives[name], board[name])]
    if not board.total_calls:
        sentences.append("no call was made, so nothing is known of any objective.")
    return sentences


def _broken(objective: Objective, tally: Tally) -> list[str]:
    if not tally.calls:
        return []
    found = []
    goodput = tally.good / tally.calls
    if objective.goodput is not None and goodput < objective.goodput:
        found.append(
            f"goodput was {goodput:.1%} of {tally.calls} arrivals; at least {objective.goodput:.1%} is wanted."
        )
    errors = tally.failed / tally.calls
    if objective.error_rate is not None and errors > objective.error_rate:
        causes = ", ".join(f"{cause} {number}" for cause, number in tally.errors.most_common(3))
        found.append(
            f"error_rate was {errors:.1%} of {tally.calls} arrivals ({causes}); at most {objective.error_rate:.1%} is wanted."
        )
    for name in Objective.model_fields:
        measure, _, level = name.removesuffix("_ms").rpartition("_p")
        wanted = getattr(objective, name)
        if measure and wanted is not None:
            text = _slow(tally, measure, level, wanted)
            found += [f"{name} {text}"] if text else []
    return found


def _slow(tally: Tally, measure: str, level: str, wanted: float) -> str:
    """What a quantile was, where it was over what is wanted (ms)."""
    found = tally.quantile(measure, int(level) / 100)
    if found is None:
        return f"was not measured in {tally.calls} arrivals; at most {wanted:g} ms is wanted."
    if math.isinf(found):
        return f"has no value, since {tally.failed} of {tally.calls} arrivals failed; at most {wanted:g} ms is wanted."
    return f"was {found * 1000:.1f} ms; at most {wanted:g} ms is wanted." if found * 1000 > wanted else ""
