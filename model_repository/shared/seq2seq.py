"""The engine of encoder-decoders (T5, BART): transformers' generation over OpenVINO's networks, one request at a time.

The same interface as ``engine.Engine``. The encoder reads the prompt; what the decoder writes counts
against the context on its own.
"""

from __future__ import annotations

import queue
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from optimum.intel import OVModelForSeq2SeqLM
from tokenizers import Tokenizer
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from engine import Detokenizer, Generation, Piece, split_at_stop
from inbox import supervised, work_off
from plugin import options

# What vLLM's sampling parameters are called here.
SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repetition_penalty": "repetition_penalty", "min_tokens": "min_new_tokens",
}  # fmt: skip


class _Writer(StoppingCriteria):  # type: ignore[misc]
    """Called after each token: tells what is new, and stops when the text is over or nobody listens."""

    def __init__(self, engine: Seq2SeqEngine, generation: Generation, stops: list[str]) -> None:
        self.engine, self.generation, self.stops = engine, generation, stops
        self.detokenizer = Detokenizer(engine.tokenizer)
        self.held, self.reason = "", ""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        generation, token = self.generation, int(input_ids[0, -1])
        self.engine.stepped = time.time()
        text = self.held + self.detokenizer.step(token)
        generation.output_tokens += 1
        logprob = float(torch.log_softmax(scores[-1][0].float(), -1)[token])
        generation.cumulative_logprob += logprob
        shown, self.held, met = split_at_stop(text, self.stops)
        limit = int(generation.parameters["max_tokens"])
        if generation.is_cancelled():
            self.reason = "cancelled"
        elif met or (token in self.engine.end_ids and not generation.parameters.get("ignore_eos")):
            self.reason = "stop"
        elif generation.output_tokens >= limit:
            self.reason = "length"
        if self.reason and not met:
            shown, self.held = text, ""
        piece = Piece(shown, 1, self.reason or None)
        if generation.want_logprobs:
            piece.logprobs = [{token: {"logprob": logprob, "decoded_token": shown}}]
        generation.on_piece(generation, piece)
        self.engine.on_step(self.engine)
        return torch.tensor([bool(self.reason)])


class Seq2SeqEngine:
    """One encoder-decoder and the queue before it, worked off by one thread."""

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.model = OVModelForSeq2SeqLM.from_pretrained(folder, ov_config=options(card))
        found = self.model.generation_config
        # What the checkpoint itself wants of every answer; how to sample is the request's to say.
        self.fixed = {
            "decoder_start_token_id": found.decoder_start_token_id
            if found.decoder_start_token_id is not None
            else self.model.config.decoder_start_token_id,
            "pad_token_id": self.model.config.pad_token_id,
            "forced_bos_token_id": getattr(found, "forced_bos_token_id", None),
        }
        self.model.generation_config = GenerationConfig(**self.fixed)
        self.context: int = card["context_tokens"]
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.end_ids: list[int] = card["end_token_ids"]
        self.inbox: queue.Queue[Generation | None] = queue.Queue(card["max_waiting"])
        self.running: dict[int, Generation] = {}
        self.counted: Counter[str] = Counter()
        self.cache_usage = 0.0  # it keeps no paged cache
        self.on_step: Callable[[Any], None] = lambda engine: None
        self.stepped = time.time()  # when it last wrote something, or was given something to do
        self._thread = supervised("seq2seq", lambda: work_off(self.inbox, self._work))

    @property
    def slots(self) -> int:
        return len(self.running)

    @property
    def waiting(self) -> int:
        return self.inbox.qsize()

    @property
    def idle(self) -> bool:
        """Whether it writes nothing and nothing waits."""
        return not self.running and self.inbox.empty()

    def submit(self, generation: Generation) -> None:
        if self.idle:
            self.stepped = time.time()
        try:
            self.inbox.put_nowait(generation)
        except queue.Full:
            generation.tell(Piece("", 0, error=f"{self.inbox.maxsize} requests wait already"))

    def drain(self, seconds: float) -> None:
        """Wait until what was submitted is done, at most so long."""
        self.inbox.put(None)
        self._thread.join(timeout=seconds)

    close = drain

    def _config(self, parameters: dict[str, Any]) -> GenerationConfig:
        for name in ("presence_penalty", "frequency_penalty"):
            if parameters.get(name):
                raise ValueError(f"{name} is not supported by encoder-decoders")
        given = {ours: parameters[name] for name, ours in SAMPLING.items() if parameters.get(name) is not None}
        sampled = parameters.get("temperature", 0) > 0
        if not sampled:
            for name in ("temperature", "top_p", "top_k", "min_p"):
                given.pop(name, None)
        return GenerationConfig(
            do_sample=sampled, max_new_tokens=parameters["max_tokens"], output_scores=True, return_dict_in_generate=True,
            **self.fixed, **given,
        )  # fmt: skip

    def _write(self, generation: Generation) -> None:
        parameters = generation.parameters
        ids = self.tokenizer.encode(generation.prompt).ids
        generation.input_tokens = len(ids)
        if not 0 < len(ids) < self.context:
            raise ValueError(f"the prompt has {len(ids)} tokens; 1 to {self.context - 1} fit")
        parameters["max_tokens"] = min(int(parameters.get("max_tokens") or self.context), self.context - 1)
        asked = parameters["max_tokens"]
        if generation.is_cancelled():
            reason = "cancelled"
            generation.on_piece(generation, Piece("", 0, reason))
        else:
            if parameters.get("seed") is not None:
                torch.manual_seed(int(parameters["seed"]))
            stop = parameters.get("stop") or []
            writer = _Writer(self, generation, [stop] if isinstance(stop, str) else list(stop))
            tokens = torch.tensor([ids])
            self.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), generation_config=self._config(parameters),
                stopping_criteria=StoppingCriteriaList([writer]),
            )  # fmt: skip
            reason = writer.reason
        if reason == "cancelled":
            self.counted["cancelled_requests_total"] += 1
            self.counted["saved_tokens_total"] += max(0, asked - generation.output_tokens)

    def _work(self, generation: Generation) -> None:
        self.running[0] = generation
        try:
            self._write(generation)
        except Exception as failure:  # a bad request ends alone
            traceback.print_exc()
            generation.tell(Piece("", 0, error=str(failure)))
        finally:
            self.running.clear()
            self.on_step(self)
