"""Proto in, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from genmesh.v1 import common_pb2 as common
from genmesh.v1 import generation_pb2 as pb
from genmesh.v1 import generation_pb2_grpc as pb_grpc

from services.generation.text import Generator, Piece, parameters
from services.runtime.chat import check_messages, plain
from services.runtime.models import Card, Catalogue
from services.runtime.validation import Fields
from services.runtime.work import aside

# Characters of a prompt, or of a message, that say which prompts belong together.
BEGINNING = 1000
R = TypeVar("R", pb.StreamGenerateResponse, pb.StreamChatResponse)


class GenerationServicer(pb_grpc.GenerationServiceServicer):
    def __init__(self, catalogue: Catalogue, generator: Generator) -> None:
        self.catalogue, self.generator = catalogue, generator

    def _prompt_pieces(self, request: pb.GenerateRequest) -> tuple[Card, AsyncGenerator[Piece, None]]:
        card = self.catalogue.get(request.model, "generator", "generate")
        fields = Fields()
        fields.text("prompt", request.prompt, most=1_000_000, blank=True)
        fields.done()
        tokens = card.check_prompt(request.prompt, "prompt")
        beginning = request.adapter + "|" + request.prompt[:BEGINNING]
        sampling = parameters(request.sampling, card, tokens, request.adapter)
        return card, self.generator.stream(card, request.prompt, sampling, tokens, "text_completion", beginning)

    def _chat_pieces(self, request: pb.ChatRequest) -> tuple[Card, AsyncGenerator[Piece, None]]:
        card = self.catalogue.get(request.model, "generator", "generate")
        check_messages(request.messages, last_from_user=True)
        prompt = card.render_chat(plain(request.messages))
        tokens = card.check_prompt(prompt, "messages")
        # All turns of a conversation begin with the same question, however many share the system's words before it.
        first = next((i for i, m in enumerate(request.messages) if m.role == "user"), 0)
        beginning = "|".join((request.adapter, *(m.content[:BEGINNING] for m in request.messages[: first + 1])))
        sampling = parameters(request.sampling, card, tokens, request.adapter)
        return card, self._stripped(self.generator.stream(card, prompt, sampling, tokens, "chat", beginning))

    @staticmethod
    async def _stripped(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """An assistant's message does not begin with white space, whatever the model's first token carries."""
        begun = False
        async with aclosing(pieces) as source:
            async for piece in source:
                if not begun and piece.text:
                    piece.text = piece.text.lstrip()
                    begun = bool(piece.text)
                    if not begun:
                        continue
                yield piece

    @staticmethod
    async def _streamed(card: Card, pieces: AsyncGenerator[Piece, None], kind: type[R]) -> AsyncGenerator[R, None]:
        async with aclosing(pieces) as source:
            async for piece in source:
                if piece.usage is None:
                    yield kind(text=piece.text)
                else:
                    yield kind(
                        finish_reason=piece.finish,
                        usage=piece.usage,
                        timings=piece.timings,
                        model_revision=card.revision,
                    )

    @staticmethod
    async def _whole(pieces: AsyncGenerator[Piece, None]) -> tuple[str, Piece]:
        text, last = [], Piece("")
        async with aclosing(pieces) as source:
            async for last in source:
                text.append(last.text)
        return "".join(text), last

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        card, pieces = await aside(request.ByteSize(), self._prompt_pieces, request)
        text, end = await self._whole(pieces)
        return pb.GenerateResponse(
            text=text, finish_reason=end.finish, usage=end.usage, timings=end.timings, model_revision=card.revision
        )

    async def StreamGenerate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.StreamGenerateResponse, None]:
        card, pieces = await aside(request.ByteSize(), self._prompt_pieces, request)
        async with aclosing(self._streamed(card, pieces, pb.StreamGenerateResponse)) as messages:
            async for message in messages:
                yield message

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        card, pieces = await aside(request.ByteSize(), self._chat_pieces, request)
        text, end = await self._whole(pieces)
        return pb.ChatResponse(
            message=common.ChatMessage(role="assistant", content=text), finish_reason=end.finish, usage=end.usage,
            timings=end.timings, model_revision=card.revision,
        )  # fmt: skip

    async def StreamChat(self, request: pb.ChatRequest, context: Any) -> AsyncGenerator[pb.StreamChatResponse, None]:
        card, pieces = await aside(request.ByteSize(), self._chat_pieces, request)
        async with aclosing(self._streamed(card, pieces, pb.StreamChatResponse)) as messages:
            async for message in messages:
                yield message
