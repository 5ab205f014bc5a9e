"""Optional stages of a search: query expansion and HyDE, both written by the generator, and reading parents.

Each stage has its own time limit. If it takes longer or fails, the search continues without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from genmesh.v1 import common_pb2, generation_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag import prompt
from services.rag.settings import Settings
from services.rag.upstream import Upstream
from services.rag.words import VAGUE, content, tokens
from services.runtime import tracing
from services.runtime.channels import onward
from services.runtime.errors import DeadlineExceeded, GenmeshError, calling
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch

TIME_LIMIT, NOTHING_WRITTEN = "TIME_LIMIT", "NOTHING_WRITTEN"
# The most tokens that the generator may write, by stage; and the most characters of one question.
MOST_TOKENS = {"rewrite": 96, "expand": 160, "hyde": 96}
MOST_CHARACTERS = 400
# At least this share of a rewritten question's content words must come from the conversation or the question, and it must have
# at least this share of the question's own, and of those of them that the conversation does not have.
MIN_KNOWN, MIN_KEPT = 0.7, 0.5
# The number or bullet before an item of a list.
BULLET = re.compile(r"\s*(?:[-*•–]|\(?\d{1,2}[.):])\s+")
# Errors that end the whole call. If the caller named the model, "no such model" does, too.
FATAL = frozenset(("UNAUTHENTICATED", "PERMISSION_DENIED"))
FATAL_IF_NAMED = FATAL | {"NOT_FOUND"}


@dataclass
class Outcome:
    """``skipped``: the reason why a stage produced nothing; empty if it succeeded."""

    skipped: str = ""


class Stage:
    """Runs the optional stages of one call."""

    def __init__(self, metrics: Rag, context: Any, watch: Stopwatch) -> None:
        self.metrics, self.context, self.watch = metrics, context, watch

    def arguments(self, seconds: float) -> dict[str, Any]:
        """Keyword arguments of a call to another service that may take ``seconds``, at most half of the remaining time."""
        remaining = self.context.time_remaining()
        return onward(self.context) | {"timeout": seconds if remaining is None else min(seconds, remaining / 2)}

    @contextmanager
    def run(self, name: str, fatal: frozenset[str] = FATAL) -> Iterator[Outcome]:
        """Trace, time and count a stage. Errors are recorded in the outcome, except ``fatal`` ones."""
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
    """Lets the generator write what is searched for beside the question."""

    def __init__(self, upstream: Upstream, settings: Settings) -> None:
        self.upstream = upstream
        self.seconds = {
            "rewrite": settings.rewrite_seconds, "expand": settings.expand_seconds, "hyde": settings.hyde_seconds,
        }  # fmt: skip

    async def rewrite(
        self, stage: Stage, question: str, history: Sequence[common_pb2.ChatMessage], model: str
    ) -> pb.GeneratedQuery:
        """The question with what it refers to in the conversation, so that it can be searched for alone."""
        conversation = " ".join(message.content for message in history[-prompt.HISTORY :])
        messages = prompt.standalone(history, question)
        return await self._write(
            stage, "rewrite", messages, model, lambda text: standalone(text, question, conversation)
        )

    async def expand(self, stage: Stage, question: str, count: int, model: str) -> pb.GeneratedQuery:
        """At most ``count`` reformulations."""
        messages = prompt.reformulations(question, count)
        return await self._write(stage, "expand", messages, model, lambda text: lines(text, question, count))

    async def hyde(self, stage: Stage, question: str, model: str) -> pb.GeneratedQuery:
        """A hypothetical answer. It may be wrong, but has the words of one (Gao et al. 2022, https://arxiv.org/abs/2212.10496)."""
        return await self._write(stage, "hyde", prompt.hypothetical_answer(question), model, hypothetical_answer)

    async def _write(
        self, stage: Stage, name: str, messages: list[common_pb2.ChatMessage], model: str,
        parse: Callable[[str], list[str]],
    ) -> pb.GeneratedQuery:  # fmt: skip
        sampling = generation_pb2.SamplingParameters(max_tokens=MOST_TOKENS[name], prompt_lookup=name == "rewrite")
        chat = generation_pb2.ChatRequest(model=model, messages=messages, sampling=sampling)
        query = pb.GeneratedQuery(stage=name)
        with stage.run(name, FATAL_IF_NAMED if model else FATAL) as outcome:
            with calling("generation", "Chat"):
                answer = await self.upstream.generation.Chat(chat, **stage.arguments(self.seconds[name]))
            query.usage.CopyFrom(answer.usage)
            tracing.current().set_attributes(tracing.usage(answer.usage.input_tokens, answer.usage.output_tokens))
            query.texts.extend(parse(answer.message.content))
            outcome.skipped = "" if query.texts else NOTHING_WRITTEN
        query.skipped_reason = outcome.skipped
        return query


def standalone(text: str, question: str, conversation: str) -> list[str]:
    """A rewritten question; empty if the generator answered it instead, or wrote another question: too many of its content words
    come neither from the question nor from the conversation, or too few from the question."""
    rewritten = prompt.one_line(text).strip('"“”')
    words, before, own = set(content(rewritten)), set(content(conversation)), set(content(question, VAGUE))
    known = words & {*content(question), *before}
    if not words or len(rewritten) > MOST_CHARACTERS or len(known) < MIN_KNOWN * len(words):
        return []
    return [rewritten] if all(len(part & words) >= MIN_KEPT * len(part) for part in (own, own - before)) else []


def lines(text: str, question: str, most: int) -> list[str]:
    """The reformulations in a generated text, one per line, without duplicates and without the question itself."""
    reformulations: dict[tuple[str, ...], str] = {}
    for line in text.splitlines():
        reformulation = BULLET.sub("", line, count=1).strip().strip('"“”')
        if len(reformulation) <= MOST_CHARACTERS and not reformulation.endswith(":"):
            reformulations.setdefault(tuple(tokens(reformulation)), reformulation)
    for words in (tokens(question), prompt.ABSTENTION, []):
        reformulations.pop(tuple(words), None)
    return list(reformulations.values())[:most]


def hypothetical_answer(text: str) -> list[str]:
    """A generated answer as one line; empty if the model wrote that it has no answer."""
    line = prompt.one_line(text)
    return [line] if line and tokens(line) != prompt.ABSTENTION else []
