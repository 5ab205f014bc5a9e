"""One function an operation: it calls the cluster and tells a ``Watch`` what comes back.

``measure`` runs one of them and returns what it was, also where it failed. In the protos the content of
a streamed message is field 1: the first message with it ends the TTFT, the gaps between such messages
are the inter-token latency (rag: between sentences). A stream of an image has one such message, its last.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Any

from genmesh import Client
from genmesh.errors import GenmeshError
from genmesh.v1.common_pb2 import ChatMessage
from genmesh.v1.diffusion_pb2 import GenerateImageRequest, UpscaleImageRequest
from genmesh.v1.embedding_pb2 import EmbedRequest, RerankRequest
from genmesh.v1.generation_pb2 import ChatRequest, GenerateRequest, SamplingParameters
from genmesh.v1.rag_pb2 import AnswerRequest, Document, IngestRequest, RetrieveRequest
from genmesh.v1.tokenization_pb2 import EncodeRequest
from genmesh.v1.vector_search_pb2 import Entity, QueryVector, SearchRequest, UpsertRequest

from loadtest import payloads
from loadtest.measures import Call
from loadtest.scenarios import Part


class Watch:
    """Notes what a call receives, at the moment at which it does."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._last: float | None = None

    def sending(self) -> None:
        """The request is made and goes out now."""
        self.call.sent = time.monotonic()

    def message(self, message: Any, content: bool) -> None:
        """A message of a stream, with content or without."""
        now = time.monotonic()
        self.call.received_bytes += message.ByteSize()
        if content:
            if self._last is None:
                self.call.first = now
            else:
                self.call.gaps.append(now - self._last)
            self._last = now

    def answer(self, message: Any) -> None:
        """The only message of a call that is no stream."""
        self.call.received_bytes += message.ByteSize()

    def usage(self, usage: Any) -> None:
        self.call.input_tokens, self.call.output_tokens = usage.input_tokens, usage.output_tokens

    def timings(self, timings: Any) -> None:
        self.call.server_ttft = timings.time_to_first_token_seconds or None


class Api:
    """What operations need: the cluster, and the names of the data that were laid out for them."""

    def __init__(self, client: Client, vectors: str = "", documents: str = "") -> None:
        self.client, self.vectors, self.documents = client, vectors, documents


Operation = Callable[[Api, Watch, random.Random, Part], None]


def _sampling(draw: random.Random, part: Part) -> SamplingParameters:
    return SamplingParameters(max_tokens=draw.randint(*part.max_tokens), ignore_eos=True)


def tokenize(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = EncodeRequest(texts=[payloads.words(draw, part.words)])
    watch.sending()
    answer = api.client.tokenization.Encode(request, timeout=part.deadline_seconds)
    watch.answer(answer)
    watch.call.input_tokens = sum(len(sequence.ids) for sequence in answer.sequences)


def embed(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    _embed(api, watch, [payloads.words(draw, part.words)], part)


def embed_bulk(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    _embed(api, watch, [payloads.words(draw, part.words) for _ in range(part.texts)], part)


def _embed(api: Api, watch: Watch, inputs: list[str], part: Part) -> None:
    request = EmbedRequest(inputs=inputs)
    watch.sending()
    answer = api.client.embedding.Embed(request, timeout=part.deadline_seconds)
    watch.answer(answer)
    watch.usage(answer.usage)
    for result in answer.results:
        if result.HasField("error"):
            watch.call.error = f"INPUT/{result.error.reason}"


def rerank(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    passages = [payloads.words(draw, part.words) for _ in range(part.texts)]
    request = RerankRequest(query=payloads.words(draw, (5, 12)), passages=passages)
    watch.sending()
    watch.answer(api.client.embedding.Rerank(request, timeout=part.deadline_seconds))


def search(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = SearchRequest(collection=api.vectors, vectors=[QueryVector(values=payloads.vector(draw))])
    watch.sending()
    watch.answer(api.client.vector_search.Search(request, timeout=part.deadline_seconds))


def upsert(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    stem = draw.randrange(2000)
    entities = [Entity(id=f"w{stem}-{number}", vector=payloads.vector(draw)) for number in range(part.texts)]
    request = UpsertRequest(collection=api.vectors, entities=entities)
    watch.sending()
    watch.answer(api.client.vector_search.Upsert(request, timeout=part.deadline_seconds))


def generate(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = GenerateRequest(prompt=payloads.words(draw, part.words), sampling=_sampling(draw, part))
    watch.sending()
    _text(watch, api.client.generation.StreamGenerate(request, timeout=part.deadline_seconds))


def chat(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    messages = [ChatMessage(role="user", content=payloads.words(draw, part.words))]
    request = ChatRequest(messages=messages, sampling=_sampling(draw, part))
    watch.sending()
    _text(watch, api.client.generation.StreamChat(request, timeout=part.deadline_seconds))


def _text(watch: Watch, stream: Any) -> None:
    for message in stream:
        watch.message(message, bool(message.text))
        if message.HasField("usage"):
            watch.usage(message.usage)
            watch.timings(message.timings)


def rag(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = AnswerRequest(collection=api.documents, question=payloads.question(draw))
    watch.sending()
    for message in api.client.rag.StreamAnswer(request, timeout=part.deadline_seconds):
        watch.message(message, message.HasField("text"))
        if message.HasField("summary"):
            watch.usage(message.summary.usage)
            watch.timings(message.summary.timings)


def retrieve(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = RetrieveRequest(collection=api.documents, question=payloads.question(draw))
    watch.sending()
    watch.answer(api.client.rag.Retrieve(request, timeout=part.deadline_seconds))


def ingest(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    document = Document(id=f"note-{secrets.token_hex(5)}.txt", text=payloads.words(draw, part.words))
    request = IngestRequest(collection=api.documents, document=document)
    watch.sending()
    for message in api.client.rag.Ingest([request], timeout=part.deadline_seconds):
        watch.answer(message)
        if message.HasField("failed"):
            watch.call.error = f"DOCUMENT/{message.failed.reason}"


def image(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = GenerateImageRequest(prompt=payloads.picture(draw), steps=part.steps, seed=draw.getrandbits(32))
    watch.sending()
    for message in api.client.diffusion.StreamGenerateImage(request, timeout=part.deadline_seconds):
        watch.message(message, message.HasField("image"))
        if message.HasField("image"):
            watch.timings(message.image.timings)


def upscale(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    request = UpscaleImageRequest(image=payloads.photograph())
    watch.sending()
    watch.answer(api.client.diffusion.UpscaleImage(request, timeout=part.deadline_seconds))


def models(api: Api, watch: Watch, draw: random.Random, part: Part) -> None:
    watch.answer(api.client.models.ListModels({}, timeout=part.deadline_seconds))


BY_NAME: dict[str, Operation] = {
    "tokenize": tokenize, "embed": embed, "embed_bulk": embed_bulk, "rerank": rerank, "search": search,
    "upsert": upsert, "generate": generate, "chat": chat, "rag": rag, "retrieve": retrieve, "ingest": ingest,
    "image": image, "upscale": upscale, "models": models,
}  # fmt: skip


def measure(api: Api, name: str, part: Part, draw: random.Random, intended: float) -> Call:
    """Call now and tell what it was. ``intended``: when the call was due, on the monotonic clock."""
    call = Call(name, intended, sent=time.monotonic())
    try:
        BY_NAME[name](api, Watch(call), draw, part)
    except GenmeshError as failure:
        call.error = f"{failure.code.name}/{failure.reason}" if failure.reason else failure.code.name
    except Exception as failure:  # what goes wrong on this side of the wire is a failed call too
        call.error = f"CLIENT/{type(failure).__name__}: {failure}"
    call.ended = time.monotonic()
    return call
