"""Proto in, proto out."""

from __future__ import annotations

import struct
from typing import Any

from genmesh.v1 import tokenization_pb2 as pb
from genmesh.v1 import tokenization_pb2_grpc as pb_grpc

from services.runtime.cache import Cache
from services.runtime.chat import check_messages, plain
from services.runtime.errors import InvalidArgument, Violation
from services.runtime.metrics import Tokenization
from services.runtime.models import Catalogue
from services.runtime.outcome import cache_info
from services.runtime.validation import Fields
from services.tokenization import tokens

TEXTS, CHARACTERS = 1024, 1_000_000


def check_texts(fields: Fields, texts: Any) -> None:
    fields.size("texts", texts, most=TEXTS)
    for i, text in enumerate(texts):
        fields.text(f"texts[{i}]", text, least=0, most=CHARACTERS, blank=True)


class TokenizationServicer(pb_grpc.TokenizationServiceServicer):
    def __init__(self, catalogue: Catalogue, cache: Cache, metrics: Tokenization) -> None:
        self.catalogue, self.cache, self.metrics = catalogue, cache, metrics

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> pb.EncodeResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        check_texts(fields, request.texts)
        fields.done()
        sequences = []
        for e in tokens.encode(card, request.texts, special=request.add_special_tokens):
            sequence = pb.TokenSequence(ids=e.ids)
            if request.return_offsets:
                sequence.start_offsets.extend(a for a, _ in e.offsets)
                sequence.end_offsets.extend(b for _, b in e.offsets)
                sequence.tokens.extend(e.tokens)
            sequences.append(sequence)
            self.metrics.tokens.inc(len(e.ids))
        return pb.EncodeResponse(sequences=sequences, model_revision=card.revision)

    async def Decode(self, request: pb.DecodeRequest, context: Any) -> pb.DecodeResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        fields.size("sequences", request.sequences, most=TEXTS)
        size = card.tokenizer.get_vocab_size()
        for i, sequence in enumerate(request.sequences):
            fields.size(f"sequences[{i}].ids", sequence.ids, least=0, most=CHARACTERS)
            bad = next((j for j, token in enumerate(sequence.ids) if not 0 <= token < size), None)
            if bad is not None:
                fields.fault(
                    f"sequences[{i}].ids[{bad}]", f"is {sequence.ids[bad]}; the vocabulary has ids 0 to {size - 1}"
                )
        fields.done()
        texts = card.tokenizer.decode_batch(
            [list(s.ids) for s in request.sequences], skip_special_tokens=not request.keep_special_tokens
        )
        return pb.DecodeResponse(texts=texts)

    async def Count(self, request: pb.CountRequest, context: Any) -> pb.CountResponse:
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        check_texts(fields, request.texts)
        fields.done()
        special = request.add_special_tokens
        keys = [self.cache.key(card.revision, "special" if special else "plain", text) for text in request.texts]
        found, answered = await self.cache.get(keys)
        missing = [i for i, entry in enumerate(found) if entry is None]

        async def work(positions: list[int]) -> list[bytes]:
            counted = tokens.count(card, [request.texts[missing[p]] for p in positions], special=special)
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
        card = self.catalogue.with_tokenizer(request.model, "generator")
        check_messages(request.messages)
        add = request.add_generation_prompt if request.HasField("add_generation_prompt") else True
        prompt = card.render_chat(plain(request.messages), add_generation_prompt=add)
        return pb.ApplyChatTemplateResponse(prompt=prompt, token_count=card.prompt_tokens(prompt))

    async def Chunk(self, request: pb.ChunkRequest, context: Any) -> pb.ChunkResponse:
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
        card = self.catalogue.with_tokenizer(request.model, "generator")
        fields = Fields()
        fields.size("texts", request.texts, most=1000)
        for i, text in enumerate(request.texts):
            fields.text(f"texts[{i}]", text, least=0, most=CHARACTERS, blank=True)
        reserved = fields.defaulted("reserved_output_tokens", request.reserved_output_tokens, 256, 10_000_000)
        overhead = fields.defaulted("overhead_tokens_per_text", request.overhead_tokens_per_text, 8, 1000)
        window = fields.defaulted(
            "max_context_tokens", request.max_context_tokens, card.context_tokens, card.context_tokens
        )
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
        costs = [n + overhead for n in tokens.count(card, request.texts, special=False)]
        kept = tokens.fit(costs, budget - fixed)
        dropped = sorted(set(range(len(costs))) - set(kept))
        used = fixed + sum(costs[i] for i in kept)
        return pb.FitToContextResponse(kept=kept, dropped=dropped, used_tokens=used, budget_tokens=budget)
