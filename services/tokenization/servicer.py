"""Proto in, proto out."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from genmesh.v1 import tokenization_pb2 as pb
from genmesh.v1 import tokenization_pb2_grpc as pb_grpc

from services.runtime.cache import Cache
from services.runtime.chat import check_messages, plain
from services.runtime.errors import InvalidArgument, Violation, answer_too_large
from services.runtime.metrics import Tokenization
from services.runtime.models import Catalogue
from services.runtime.outcome import cache_info
from services.runtime.validation import Fields
from services.runtime.work import aside
from services.tokenization import tokens

TEXTS, CHARACTERS = 1024, 1_000_000
# A tokenizer takes up to 220 bytes of memory for each byte of a text (measured: emoji, with offsets), a decoder about as
# much for each id. With the answer, as a message and as bytes, a call takes at most 64 MiB.
TEXT_BYTES = IDS = 200_000
ANSWER_BYTES = 10 * 2**20
# What a token takes in an answer; its text is mostly short.
ID_BYTES, OFFSET_BYTES = 5, 45


def check_texts(fields: Fields, texts: Any, most: int = TEXTS) -> None:
    fields.size("texts", texts, most=most)
    for i, text in enumerate(texts):
        if (size := len(text.encode())) > TEXT_BYTES:
            fields.fault(f"texts[{i}]", f"has {size} bytes; at most {TEXT_BYTES} are allowed")


class TokenizationServicer(pb_grpc.TokenizationServiceServicer):
    def __init__(self, catalogue: Catalogue, cache: Cache, metrics: Tokenization) -> None:
        self.catalogue, self.cache, self.metrics = catalogue, cache, metrics

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> pb.EncodeResponse:
        return await aside(request.ByteSize(), self._encode, request)

    def _encode(self, request: pb.EncodeRequest) -> pb.EncodeResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        check_texts(fields, request.texts)
        fields.done()
        response, room = pb.EncodeResponse(model_revision=card.revision), ANSWER_BYTES
        encoded = tokens.encode(
            card, request.texts, special=request.add_special_tokens, offsets=request.return_offsets,
            control=request.read_control_tokens,
        )  # fmt: skip
        for e in encoded:
            room -= len(e) * (OFFSET_BYTES if request.return_offsets else ID_BYTES)
            if room < 0:
                advice = "fewer or shorter texts" + (", or without offsets" if request.return_offsets else "")
                raise answer_too_large("texts", "asks for tokens", ANSWER_BYTES, advice)
            sequence = response.sequences.add(ids=e.ids)
            if request.return_offsets:
                starts, ends = zip(*e.offsets, strict=True) if len(e) else ((), ())
                sequence.start_offsets.extend(starts)
                sequence.end_offsets.extend(ends)
                sequence.tokens.extend(e.tokens)
            self.metrics.tokens.inc(len(e))
        return response

    async def Decode(self, request: pb.DecodeRequest, context: Any) -> pb.DecodeResponse:
        return await aside(request.ByteSize(), self._decode, request)

    def _decode(self, request: pb.DecodeRequest) -> pb.DecodeResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        fields.size("sequences", request.sequences, most=TEXTS)
        lengths = tokens.lengths(card)
        size, room = len(lengths), ANSWER_BYTES
        for i, sequence in enumerate(request.sequences):
            fields.size(f"sequences[{i}].ids", sequence.ids, least=0, most=IDS)
            ids = np.array(sequence.ids, dtype=np.int64)
            bad = np.flatnonzero((ids < 0) | (ids >= size))
            if bad.size:
                j = int(bad[0])
                fields.fault(f"sequences[{i}].ids[{j}]", f"is {ids[j]}; the vocabulary has ids 0 to {size - 1}")
            else:
                room -= int(lengths[ids].sum())
        fields.done()
        if room < 0:
            raise answer_too_large("sequences", "asks for texts", ANSWER_BYTES, "fewer or shorter sequences")
        skip = not request.keep_special_tokens
        return pb.DecodeResponse(
            texts=(card.tokenizer.decode(list(s.ids), skip_special_tokens=skip) for s in request.sequences)
        )

    async def Count(self, request: pb.CountRequest, context: Any) -> pb.CountResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        check_texts(fields, request.texts)
        fields.done()
        special, control = request.add_special_tokens, request.read_control_tokens
        kind = f"special={special} control={control}"
        keys = [self.cache.key(card.revision, kind, text) for text in request.texts]
        found, answered = await self.cache.get(keys)
        missing = [i for i, entry in enumerate(found) if entry is None]

        async def work(positions: list[int]) -> list[bytes]:
            texts = [request.texts[missing[p]] for p in positions]
            counted = await aside(sum(map(len, texts)), tokens.count, card, texts, special=special, control=control)
            return [struct.pack("<I", n) for n in counted]

        computed = await self.cache.compute([keys[i] for i in missing], work)
        values: list[bytes | None] = list(found)
        for position, value in zip(missing, computed, strict=True):
            values[position] = value
        counts = [struct.unpack("<I", v)[0] for v in values if v is not None]
        self.metrics.tokens.inc(sum(counts))
        info = cache_info(hits=len(keys) - len(missing), misses=len(missing), answered=answered)
        return pb.CountResponse(counts=counts, total=sum(counts), cache=info)

    async def ApplyChatTemplate(
        self, request: pb.ApplyChatTemplateRequest, context: Any
    ) -> pb.ApplyChatTemplateResponse:
        return await aside(request.ByteSize(), self._apply, request)

    def _apply(self, request: pb.ApplyChatTemplateRequest) -> pb.ApplyChatTemplateResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        check_messages(request.messages)
        add = request.add_generation_prompt if request.HasField("add_generation_prompt") else True
        prompt = card.render_chat(plain(request.messages), add_generation_prompt=add)
        return pb.ApplyChatTemplateResponse(prompt=prompt, token_count=card.prompt_tokens(prompt))

    async def Chunk(self, request: pb.ChunkRequest, context: Any) -> pb.ChunkResponse:
        return await aside(request.ByteSize(), self._chunk, request)

    def _chunk(self, request: pb.ChunkRequest) -> pb.ChunkResponse:
        card = self.catalogue.with_tokenizer(request.model, "embedder")
        fields = Fields()
        fields.text("text", request.text, most=CHARACTERS)
        most = request.max_tokens or 200
        fields.number("max_tokens", most, 8, 8192)
        if not 0 <= request.overlap_tokens < most / 2:
            fields.fault(
                "overlap_tokens", f"is {request.overlap_tokens}; 0 to less than half of max_tokens ({most}) are allowed"
            )
        fields.done()
        response = pb.ChunkResponse()
        for c in tokens.chunk(card, request.text, most, request.overlap_tokens):
            response.chunks.add(
                text=c.text, start_offset=c.start, end_offset=c.end, token_count=c.tokens,
                cut_before=c.cut_before, cut_after=c.cut_after,
            )  # fmt: skip
        return response

    async def FitToContext(self, request: pb.FitToContextRequest, context: Any) -> pb.FitToContextResponse:
        return await aside(request.ByteSize(), self._fit, request)

    def _fit(self, request: pb.FitToContextRequest) -> pb.FitToContextResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        check_texts(fields, request.texts, most=1000)
        reserved = fields.defaulted("reserved_output_tokens", request.reserved_output_tokens, 256, 2**31 - 1)
        overhead = fields.defaulted("overhead_tokens_per_text", request.overhead_tokens_per_text, 8, 1000)
        window = fields.defaulted(
            "max_context_tokens", request.max_context_tokens, card.context_tokens, card.context_tokens
        )
        if reserved >= window:
            field = "reserved_output_tokens" if request.reserved_output_tokens else "max_context_tokens"
            fields.fault(field, f"leaves nothing: the answer's {reserved} tokens are all of the context's {window}")
        fields.done()
        fixed = 0
        if request.fixed_messages:
            check_messages(request.fixed_messages, "fixed_messages", last_from_user=False)
            fixed = card.prompt_tokens(card.render_chat(plain(request.fixed_messages)))
        budget = window - reserved
        if fixed > budget:
            text = f"need {fixed} tokens; {budget} of the context's {window} are left beside the answer's {reserved}"
            raise InvalidArgument(
                f"fixed_messages: {text}", reason="PROMPT_TOO_LONG", violations=[Violation("fixed_messages", text)],
                metadata={"prompt_tokens": str(fixed), "context_tokens": str(window)},
            )  # fmt: skip
        costs = [n + overhead for n in tokens.count(card, list(map(card.harmless, request.texts)), special=False)]
        kept = tokens.fit(costs, budget - fixed)
        dropped = sorted(set(range(len(costs))) - set(kept))
        used = fixed + sum(costs[i] for i in kept)
        return pb.FitToContextResponse(kept=kept, dropped=dropped, used_tokens=used, budget_tokens=budget)
