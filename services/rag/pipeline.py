"""One grounded answer, from top to bottom: find passages, fit, generate, check each sentence."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from genmesh.v1 import common_pb2, embedding_pb2, generation_pb2, tokenization_pb2
from genmesh.v1 import rag_pb2 as pb

from services.rag import grounding, prompt
from services.rag.retrieval import Retriever, context_of
from services.rag.settings import Settings
from services.rag.upstream import Upstream
from services.rag.words import tokens
from services.runtime import tracing
from services.runtime.channels import onward
from services.runtime.errors import calling
from services.runtime.metrics import Rag
from services.runtime.outcome import Stopwatch
from services.runtime.sentences import split_sentences

CITATION_OR_ITS_BEGINNING = re.compile(r"(?:\[\d{0,3}\]?\s*)+")
DEFAULT_MAX_TOKENS = 160
Event = pb.StreamAnswerResponse
LABELS = {
    pb.GROUNDING_SUPPORTED: "supported",
    pb.GROUNDING_QUOTATION: "quotation",
    pb.GROUNDING_NO_ANSWER: "no_answer",
}


class Pipeline:
    def __init__(self, upstream: Upstream, retriever: Retriever, metrics: Rag, settings: Settings) -> None:
        self.upstream, self.retriever, self.metrics, self.settings = upstream, retriever, metrics, settings

    async def answer(self, request: pb.AnswerRequest, top: int, context: Any) -> AsyncGenerator[Event, None]:
        """The events of one answer; text is sent only once it is checked."""
        watch, question = Stopwatch(), request.question.strip()
        usage = common_pb2.Usage()
        found: list[pb.Passage] = []
        async with aclosing(self.retriever.find(request, top, context, watch, once=True)) as steps:
            async for step in steps:
                if isinstance(step, str):
                    yield Event(stage=pb.AnswerStage(stage=step))
                elif isinstance(step, pb.GeneratedQuery):
                    spend(usage, step.usage)
                    if step.stage == "rewrite" and step.texts:
                        question = step.texts[0]
                    yield Event(query=step)
                else:
                    found = step
        passages: list[pb.Passage] = []
        sources: list[grounding.Source] = []
        if found:
            yield Event(stage=pb.AnswerStage(stage="fit"))
            passages = await self._fit(question, found, request, context, watch)
            for number, passage in enumerate(passages, 1):
                passage.number = number
            sources = await self._sources(question, passages, context, watch)
            yield Event(passages=pb.AnswerPassages(passages=passages))

        groundings: list[pb.Grounding.ValueType] = []
        quotation = grounding.quote(sources)
        if quotation is not None and self._answers(question, quotation.source, passages):
            yield Event(stage=pb.AnswerStage(stage="generate"))
            async for grounded in self._generate(question, passages, sources, quotation, request, usage, context):
                kind = pb.GROUNDING_SUPPORTED if grounded.by_model else pb.GROUNDING_QUOTATION
                lead = " " if groundings else ""
                watch.content()
                yield Event(text=pb.AnswerText(text=lead + grounded.text, grounding=kind))
                yield Event(citation=self._citation(grounded, passages, kind))
                self.metrics.citations.inc()
                groundings.append(kind)
            self.metrics.stage.labels("generate").observe(watch.stage("generate"))
        if not groundings:
            watch.content()
            yield Event(text=pb.AnswerText(text=prompt.NO_ANSWER, grounding=pb.GROUNDING_NO_ANSWER))
            groundings.append(pb.GROUNDING_NO_ANSWER)
        weakest = max(groundings)
        self.metrics.answers.labels(LABELS[weakest]).inc()
        tracing.current().set_attributes(
            {"genmesh.rag.grounding": LABELS[weakest], **tracing.usage(usage.input_tokens, usage.output_tokens)}
        )
        yield Event(
            summary=pb.AnswerSummary(
                answered=weakest != pb.GROUNDING_NO_ANSWER, grounding=weakest, usage=usage, timings=watch.timings()
            )
        )

    def _answers(self, question: str, best: grounding.Source, passages: Sequence[pb.Passage]) -> bool:
        passage = passages[best.number - 1]
        likely = grounding.answerability(question, best.relevance, passage.text, context_of(passage))
        tracing.current().set_attribute("genmesh.rag.answerability", likely)
        return likely >= self.settings.answer_threshold

    async def _fit(
        self, question: str, passages: list[pb.Passage], request: pb.AnswerRequest, context: Any, watch: Stopwatch
    ) -> list[pb.Passage]:
        """The passages that fit the model's context beside the question and the answer; where it reads a sentence of them, all
        of them if the longest fits."""
        alone = self.settings.reads == "sentence"
        texts = [p.text for p in passages]
        fit = tokenization_pb2.FitToContextRequest(
            model=request.model, fixed_messages=prompt.messages(question, []),
            texts=[max(texts, key=len)] if alone else texts,
            reserved_output_tokens=request.max_tokens or DEFAULT_MAX_TOKENS,
        )  # fmt: skip
        with tracing.span("rag fit"), calling("tokenization", "FitToContext"):
            answer = await self.upstream.tokenization.FitToContext(fit, **onward(context))
        self.metrics.stage.labels("fit").observe(watch.stage("fit"))
        if alone:
            return passages if answer.kept else []
        return [passages[i] for i in answer.kept]

    async def _sources(
        self, question: str, passages: list[pb.Passage], context: Any, watch: Stopwatch
    ) -> list[grounding.Source]:
        """Every sentence of the passages, with its relevance to the question."""
        sentences = [(p, s) for p in passages for s in split_sentences(p.text)][:512]
        if not sentences:
            return []
        request = embedding_pb2.RerankRequest(query=question, passages=[s for _, s in sentences])
        with tracing.span("rag check"), calling("embedding", "Rerank"):
            answer = await self.upstream.embedding.Rerank(request, **onward(context))
        similarity = {ranked.index: ranked.score for ranked in answer.passages}
        self.metrics.stage.labels("check").observe(watch.stage("check"))
        return [
            grounding.Source(
                p.number, s, grounding.relevance(question, s, context_of(p), similarity[i], p.rerank_score)
            )
            for i, (p, s) in enumerate(sentences)
        ]

    async def _generate(
        self, question: str, passages: list[pb.Passage], sources: list[grounding.Source], quotation: grounding.Grounded,
        request: pb.AnswerRequest, usage: common_pb2.Usage, context: Any,
    ) -> AsyncGenerator[grounding.Grounded, None]:  # fmt: skip
        """What goes out, as soon as each sentence is written and checked."""
        texts, near = read(self.settings.reads, question, passages, sources, quotation)
        chat = generation_pb2.ChatRequest(
            model=request.model, messages=prompt.messages(question, texts),
            sampling=generation_pb2.SamplingParameters(
                max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS, prompt_lookup=True
            ),
        )  # fmt: skip
        aside = None
        if self.settings.reads == "sentence" and len(near) > 1:
            aside, quotation = near[0], grounding.quoted(near[-1])
        checked = Checked(near, quotation, abstains=self.settings.reads == "passages", aside=aside)
        stream = None
        try:
            with tracing.span("rag generate") as span, calling("generation", "StreamChat"):
                stream = self.upstream.generation.StreamChat(chat, **onward(context))
                async for message in stream:
                    if message.HasField("usage"):
                        spend(usage, message.usage)
                        span.set_attributes(tracing.usage(message.usage.input_tokens, message.usage.output_tokens))
                    for grounded in checked.add(message.text):
                        yield grounded
        finally:
            if stream is not None:
                stream.cancel()
            self.metrics.rejected.inc(checked.rejected)
        for grounded in checked.end():
            yield grounded

    @staticmethod
    def _citation(
        grounded: grounding.Grounded, passages: list[pb.Passage], kind: pb.Grounding.ValueType
    ) -> pb.Citation:
        passage = passages[grounded.source.number - 1]
        return pb.Citation(
            number=passage.number, passage_id=passage.id, document_id=passage.document_id,
            quote=grounded.source.sentence, grounding=kind, relevance=grounded.source.relevance,
        )  # fmt: skip


def read(
    what: str, question: str, passages: Sequence[pb.Passage], sources: Sequence[grounding.Source],
    quotation: grounding.Grounded,
) -> tuple[list[str], Sequence[grounding.Source]]:  # fmt: skip
    """The texts that the generator reads, and the sentences that its answer may rest on; ``what``: see settings.py."""
    if what == "sentence":
        linked = grounding.linked(question, sources, quotation.source)
        return [" ".join(source.sentence for source in linked)], linked
    return [passage.text for passage in passages], sources


class Checked:
    """What of a generated text goes out.

    An unsupported sentence is replaced by a quotation: of the sentence that it is a part of, or else of the most relevant.
    Nothing goes out where a model whose word on that counts (``abstains``) says that no passage answers. The whole of
    ``aside`` is no answer: it lacks what is asked after.
    """

    def __init__(
        self, sources: Sequence[grounding.Source], quotation: grounding.Grounded, *, abstains: bool,
        aside: grounding.Source | None = None,
    ) -> None:  # fmt: skip
        self.sources, self.quotation, self.abstains, self.aside = sources, quotation, abstains, aside
        self.rejected = 0
        self._pending, self._sent, self._abstained = "", set[str](), False

    def add(self, text: str) -> list[grounding.Grounded]:
        """What may go out with this piece of the text."""
        ready, self._pending = complete(self._pending + text)
        return self._checked(ready)

    def end(self) -> list[grounding.Grounded]:
        """What goes out at the end of the text."""
        out = self._checked(self._pending)
        if not out and not self._sent and not (self._abstained and self.abstains):
            out = [self.quotation]
        return out

    def _checked(self, text: str) -> list[grounding.Grounded]:
        out = []
        for sentence, cited in grounding.parse_generated(text):
            self._abstained = self._abstained or tokens(sentence) == prompt.ABSTENTION
            if self._abstained:
                break
            grounded = grounding.ground(sentence, cited, self.sources)
            if (
                grounded is not None
                and grounded.source is self.aside
                and grounding.supports(sentence, self.aside.sentence)
            ):
                self.rejected += 1
                grounded = self.quotation
            elif grounded is None:
                self.rejected += 1
                grounded = grounding.located(sentence, cited, self.sources) or self.quotation
            if grounded.source.sentence not in self._sent:
                self._sent.add(grounded.source.sentence)
                out.append(grounded)
        return out


def spend(usage: common_pb2.Usage, more: common_pb2.Usage) -> None:
    usage.input_tokens += more.input_tokens
    usage.output_tokens += more.output_tokens


def complete(text: str) -> tuple[str, str]:
    """Generated text as (sentences that are complete with their citations, the rest).

    A sentence is complete once another one has begun: its citation may follow its full stop.
    """
    pieces = split_sentences(text)
    if len(pieces) < 2 or CITATION_OR_ITS_BEGINNING.fullmatch(pieces[-1]):
        return "", text
    at = text.rfind(pieces[-1])
    return text[:at], text[at:]
