"""Stages that an answer can do without: what the generator makes of a question before it is searched for, and parents.

Each has a time limit of its own. Where that passes, or the stage fails, the answer goes on without it and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genmesh.v1 import common_pb2, generation_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag import prompt
from services.rag.settings import Settings
from services.rag.upstream import Upstream
from services.rag.words import tokens
from services.runtime import tracing
from services.runtime.channels import onward
from services.runtime.errors import DeadlineExceeded, GenmeshError, calling
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch

TIME_LIMIT, NOTHING_WRITTEN = "TIME_LIMIT", "NOTHING_WRITTEN"
# Of the text for a stage, and of one reformulation: longer ones are no questions.
TOKENS = {"expand": 160, "hyde": 96}
MOST_CHARACTERS = 400
# What stands before a line of a list.
BULLET = re.compile(r"\s*(?:[-*•–]|\(?\d{1,2}[.):])\s+")
ABSTENTION = tokens(prompt.NO_ANSWER)
# What ends the call, too; and what does where the caller named the model.
FATAL, NAMED = frozenset(("UNAUTHENTICATED", "PERMISSION_DENIED")), frozenset(("NOT_FOUND",))


@dataclass
class Outcome:
    """Why a stage gave nothing; empty where it did not fail."""

    skipped: str = ""


class Stage:
    """Runs such stages, for one call."""

    def __init__(self, metrics: Rag, context: Any, watch: Stopwatch) -> None:
        self.metrics, self.context, self.watch = metrics, context, watch

    def arguments(self, seconds: float) -> dict[str, Any]:
        """Of a call to another service that may take so long, and half of what is left of the call's own time."""
        remaining = self.context.time_remaining()
        return onward(self.context) | {"timeout": seconds if remaining is None else min(seconds, remaining / 2)}

    @contextmanager
    def run(self, name: str, fatal: frozenset[str] = FATAL) -> Iterator[Outcome]:
        outcome = Outcome()
        try:
            with tracing.span(f"rag {name}"):
                yield outcome
        except GenmeshError as failure:
            if failure.code.name in fatal:
                raise
            outcome.skipped = TIME_LIMIT if failure.code is DeadlineExceeded.code else failure.reason
        self.metrics.stage.labels(name).observe(self.watch.stage(name))
        ended = {"": "ok", TIME_LIMIT: "timeout"}.get(outcome.skipped, "failed")
        self.metrics.optional.labels(name, ended).inc()


class Writer:
    """What the generator makes of a question."""

    def __init__(self, upstream: Upstream, settings: Settings) -> None:
        self.upstream = upstream
        self.seconds = {"expand": settings.expand_seconds, "hyde": settings.hyde_seconds}

    async def expand(self, stage: Stage, question: str, count: int, model: str) -> pb.GeneratedQuery:
        """At most ``count`` reformulations."""
        return await self._written(stage, "expand", prompt.reformulations(question, count), model, question, count)

    async def hyde(self, stage: Stage, question: str, model: str) -> pb.GeneratedQuery:
        """An answer that may be wrong, but is worded as answers are (Gao et al. 2022, https://arxiv.org/abs/2212.10496)."""
        return await self._written(stage, "hyde", prompt.invention(question), model, question, 1)

    async def _written(
        self, stage: Stage, name: str, messages: list[common_pb2.ChatMessage], model: str, question: str, count: int
    ) -> pb.GeneratedQuery:
        chat = generation_pb2.ChatRequest(
            model=model, messages=messages, sampling=generation_pb2.SamplingParameters(max_tokens=TOKENS[name])
        )
        query = pb.GeneratedQuery(stage=name)
        with stage.run(name, FATAL | NAMED if model else FATAL) as outcome:
            with calling("generation", "Chat"):
                answer = await self.upstream.generation.Chat(chat, **stage.arguments(self.seconds[name]))
            query.usage.CopyFrom(answer.usage)
            tracing.current().set_attributes(tracing.usage(answer.usage.input_tokens, answer.usage.output_tokens))
            text = answer.message.content
            query.texts.extend(lines(text, question, count) if name == "expand" else invented(text))
            outcome.skipped = "" if query.texts else NOTHING_WRITTEN
        query.skipped_reason = outcome.skipped
        return query


def lines(text: str, question: str, most: int) -> list[str]:
    """The reformulations in a generated text, one a line: none twice, none that is the question."""
    found: dict[tuple[str, ...], str] = {}
    for line in text.splitlines():
        one = BULLET.sub("", line, count=1).strip().strip('"“”')
        if one and len(one) <= MOST_CHARACTERS and not one.endswith(":"):
            found.setdefault(tuple(tokens(one)), one)
    found.pop(tuple(tokens(question)), None)
    found.pop(tuple(ABSTENTION), None)
    found.pop((), None)
    return list(found.values())[:most]


def invented(text: str) -> list[str]:
    """A generated answer as one line; none where the model says that it has none."""
    one = prompt.one_line(text)
    return [one] if one and tokens(one) != ABSTENTION else []
