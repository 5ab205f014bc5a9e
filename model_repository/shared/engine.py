"""The generation engine: OpenVINO GenAI's continuous batching, driven by one thread.

Life of a request:
1. ``submit`` puts it on the inbox, from any thread.
2. The engine's thread takes it. While all slots are taken it waits; then its prompt is encoded and handed to the pipeline.
3. Each ``step`` of the pipeline runs one forward pass for all running requests.
4. New tokens become text (incremental detokenization); text that may yet turn into a stop string waits.
5. ``on_piece`` is called with what is new, and with the finish reason at the end. The first token
   leaves at once; later ones wait until ``stream_milliseconds`` have passed since the last piece (longer where all
   streams together would exceed ``stream_messages`` a second) and, in a large batch, until there are
   ``stream_interval`` of them. What waits leaves with the next step at the latest
   that ends after that, and with the request's end.
6. A request whose client is gone is cancelled within a step and ``LOOK_SECONDS`` (with many others: a step more for each
   ``LOOKS`` of them), which frees its KV blocks.

What a request raises (in detokenization, or from its sender) ends that request alone. What the loop itself raises ends
the process, after each request was told so.
"""

from __future__ import annotations

import json
import queue
import time
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
from inbox import end_process, supervised
from openvino_genai.py_openvino_genai import GenerationStatus
from plugin import options
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

FINISHED = {openvino_genai.GenerationFinishReason.STOP: "stop", openvino_genai.GenerationFinishReason.LENGTH: "length"}
# Tokens of one block of the KV cache (OpenVINO's PagedAttention on a CPU).
BLOCK_TOKENS = 32
# Between two looks at whether a request's client is still there. Each is a message to Triton's process and back (50 us), so
# in a step there are at most LOOKS at those that run and WAITING_LOOKS at those that wait.
LOOK_SECONDS, LOOKS, WAITING_LOOKS = 0.02, 8, 2
# A request's blocks are free so many steps after its end.
FREEING_STEPS = 2
# So many steps in a row that fail end the process.
FAILED_STEPS = 3
# A draft continues the last place in prompt and text that has the last tokens, at most so many of them, in it.
LOOKUP_NGRAM = 3
LOOKUP_CACHE = 4  # its engine's KV cache is a quarter of the other's
# Requests that began together send their second pieces in so many groups.
TURNS = 4
# What vLLM's sampling parameters are called here.
SAMPLING = {
    "max_tokens": "max_new_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "seed": "rng_seed", "ignore_eos": "ignore_eos", "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty", "min_tokens": "min_new_tokens",
}  # fmt: skip


@dataclass
class Piece:
    """What one step added to a request."""

    text: str
    tokens: int
    finish_reason: str | None = None
    error: str | None = None
    logprobs: list[dict[int, dict[str, Any]]] = field(default_factory=list)


@dataclass(eq=False)
class Generation:
    """A request: what to write, whom to tell, and how to know that nobody listens any more."""

    prompt: str
    parameters: dict[str, Any]
    on_piece: Callable[[Generation, Piece], None]
    is_cancelled: Callable[[], bool]
    want_logprobs: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cumulative_logprob: float = 0.0
    # When to ask next whether the client is still there.
    look_after: float = field(default_factory=lambda: time.monotonic() + LOOK_SECONDS)

    def tell(self, piece: Piece) -> None:
        """Send a request's last piece; if that cannot be sent, nobody is left to be told."""
        try:
            self.on_piece(self, piece)
        except Exception:
            traceback.print_exc()


def split_at_stop(text: str, stops: list[str]) -> tuple[str, str, bool]:
    """``text`` as (what may be shown, what must wait, whether a stop string was met)."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    hold = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - hold], text[len(text) - hold :], False


class Detokenizer:
    """Text of one request's tokens, as they come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.stream = tokenizer, DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        """What a token adds to the text; empty if a character is not whole yet."""
        try:
            return self.stream.step(self.tokenizer, token) or ""
        except Exception as failure:
            if not str(failure).startswith("Invalid prefix encountered"):
                raise
        # Vocabularies with byte fallback can turn bytes that were text before into another character. The text so far
        # was sent; what follows begins anew.
        self.stream = DecodeStream(skip_special_tokens=True)
        return self.stream.step(self.tokenizer, token) or ""


class _Running:
    """A request inside the pipeline."""

    def __init__(self, key: int, generation: Generation, handle: Any, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.key, self.generation, self.handle = key, generation, handle
        self.ids = list(ids)  # of the prompt and of what was written
        self.detokenizer = Detokenizer(tokenizer)
        stop = generation.parameters.get("stop") or []
        self.stops: list[str] = [stop] if isinstance(stop, str) else list(stop)
        self.held = ""
        self.unsent = Piece("", 0)
        # The next piece leaves at so many output tokens, and not before that moment.
        self.due_at, self.due_after = 1, 0.0

    def advance(self, interval: int, hold: float) -> bool:
        """Report what is new once ``interval`` tokens are and ``hold`` seconds have passed since; True at the end."""
        generation, unsent = self.generation, self.unsent
        text, tokens, reason = self.held, 0, None
        while self.handle.can_read():
            for output in self.handle.read().values():
                reason = FINISHED.get(output.finish_reason, reason)
                for token, logprob in zip(output.generated_ids, output.generated_log_probs, strict=False):
                    tokens += 1
                    self.ids.append(token)
                    generation.cumulative_logprob += logprob
                    piece = self.detokenizer.step(token)
                    text += piece
                    if generation.want_logprobs:
                        unsent.logprobs.append({token: {"logprob": logprob, "decoded_token": piece}})
        status = self.handle.get_status()
        if status == GenerationStatus.IGNORED:
            generation.on_piece(generation, Piece("", 0, error="the request does not fit into the KV cache"))
            return True
        generation.output_tokens += tokens
        shown, self.held, met = split_at_stop(text, self.stops)
        if met:
            self.handle.stop()
            reason = "stop"
        elif reason or status != GenerationStatus.RUNNING:
            shown, self.held, reason = text, "", reason or "stop"
        unsent.text += shown
        unsent.tokens += tokens
        unsent.finish_reason = reason
        now = time.monotonic()
        if reason or (unsent.tokens and generation.output_tokens >= self.due_at and now >= self.due_after):
            # Requests that began together take turns, so that the hops' work spreads over the steps.
            first = self.due_at == 1
            self.due_at = generation.output_tokens + 1 + (self.key % interval if first else interval - 1)
            self.due_after = now + (hold * (self.key % TURNS + 1) / TURNS if first else hold)
            self.unsent = Piece("", 0)
            generation.on_piece(generation, unsent)
        return reason is not None


class PrefixBook:
    """Which blocks of tokens the KV cache holds, by the engine's own rule: whole blocks, found by all that precedes
    them, least recently used out. The engine tells no hits, so this is what they are counted by."""

    def __init__(self, most: int) -> None:
        """``most``: the blocks that fit."""
        self.most = most
        self._blocks: OrderedDict[int, None] = OrderedDict()

    @staticmethod
    def _keys(ids: list[int]) -> list[int]:
        keys, key = [], 0
        for at in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            key = hash((key, *ids[at : at + BLOCK_TOKENS]))
            keys.append(key)
        return keys

    def hits(self, ids: list[int]) -> int:
        """The prompt's tokens whose blocks are there; the last token is always computed."""
        found = 0
        for key in self._keys(ids[:-1]):
            if key not in self._blocks:
                break
            self._blocks.move_to_end(key)
            found += BLOCK_TOKENS
        return found

    def add(self, ids: list[int]) -> None:
        """These tokens' keys and values were computed."""
        for key in self._keys(ids):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self.most:
            self._blocks.popitem(last=False)


def cached_blocks(folder: Path, gigabytes: float) -> int:
    """The blocks that a KV cache holds: keys and values of each layer and head, 8 bits a number as the engine's default."""
    config = json.loads((folder / "config.json").read_text())
    layers, heads = (
        (config.get("num_hidden_layers") or config["n_layer"]),
        (config.get("num_attention_heads") or config["n_head"]),
    )
    width = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    a_block = 2 * layers * (config.get("num_key_value_heads") or heads) * width * BLOCK_TOKENS
    return max(1, int(gigabytes * 2**30 / a_block))


def strength(adapter: Path) -> float:
    """What the product of a LoRA's factors is multiplied by: alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) where it
    is rank-stabilized (Kalajdzievski 2023)."""
    config = json.loads(adapter.with_name("adapter_config.json").read_text())
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


class Engine:
    """Continuous batching over one checkpoint; see the module's text for a request's life."""

    def __init__(
        self,
        folder: Path,
        card: dict[str, Any],
        adapter: Path | None = None,
        lookup_tokens: int = 0,
        on_end: Callable[[str], None] = end_process,
    ) -> None:
        """``adapter``: the safetensors file of a LoRA that is added to the checkpoint's weights; PEFT's
        ``adapter_config.json`` beside it says how much. ``lookup_tokens``: drafted in a step from what the text repeats
        (prompt lookup decoding, Saxena 2023); such an engine is for greedy requests without penalties. ``on_end`` is told
        why, if the engine's thread ends unplanned."""
        scheduler = openvino_genai.SchedulerConfig()
        blocks = cached_blocks(folder, card["kv_cache_gigabytes"])
        if lookup_tokens:  # beside another engine, and for short texts
            blocks = max(blocks // LOOKUP_CACHE, card["context_tokens"] // BLOCK_TOKENS + 1)
            scheduler.num_kv_blocks = blocks
        else:
            scheduler.cache_size = card["kv_cache_gigabytes"]
        scheduler.max_num_seqs = card["max_sequences"]
        scheduler.max_num_batched_tokens = card["max_batched_tokens"]
        scheduler.enable_prefix_caching = True
        self.most: int = card["max_sequences"]
        self.prefixes = PrefixBook(blocks)
        self.context: int = card["context_tokens"]
        self.limit: int = card["max_waiting"]
        self.stream_hold: float = card["stream_milliseconds"] / 1000
        self.stream_messages: int = card["stream_messages"]
        self.stream_interval: int = card["stream_interval"]
        self.stream_interval_from: int = card["stream_interval_from"]
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.end_ids: list[int] = card["end_token_ids"]
        self.begin_id: int | None = card["begin_token_id"]
        properties = options(card)
        if adapter is not None:
            # Beside the weights: fused into compressed ones it cannot be.
            properties["adapters"] = openvino_genai.AdapterConfig(
                [(openvino_genai.Adapter(adapter), strength(adapter))], openvino_genai.AdapterConfig.Mode.MODE_STATIC
            )
        self.lookup_tokens = lookup_tokens
        if lookup_tokens:
            properties["prompt_lookup"] = True
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self.inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self.queue: deque[Generation] = deque()  # waits for a slot
        self.running: dict[int, _Running] = {}
        self.counted: Counter[str] = Counter()
        self.on_step: Callable[[Engine], None] = lambda engine: None
        self.on_end = on_end
        self.stepped = time.time()  # when it last did something, or was given something to do
        self._next_id = 0
        self._turn = 0  # of those that wait: whose client was asked after last
        self._freeing = 0  # steps to make also with nothing left to run
        self._failed_steps = 0  # in a row
        self._drain_until = 0.0
        self._thread = supervised("engine", self._loop, self._ended)

    @property
    def slots(self) -> int:
        """Requests that hold a slot."""
        return len(self.running)

    @property
    def waiting(self) -> int:
        return len(self.queue) + self.inbox.qsize()

    def submit(self, generation: Generation) -> None:
        if self.idle:
            self.stepped = time.time()
        self.inbox.put(generation)

    def drain(self, seconds: float) -> None:
        """Finish what was submitted, for at most so long; then requests in flight get an error."""
        self._drain_until = time.monotonic() + seconds
        self.inbox.put(None)
        self._thread.join(timeout=seconds + 10)

    def close(self) -> None:
        """Stop after the current step; requests in flight get an error."""
        self.drain(0)

    @property
    def idle(self) -> bool:
        """Whether it runs nothing and nothing waits."""
        return not self.running and not self.queue and self.inbox.empty()

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return float(self.pipeline.get_metrics().cache_usage) / 100

    def _config(self, parameters: dict[str, Any], room: int) -> openvino_genai.GenerationConfig:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = room
        config.eos_token_id = self.end_ids[0]
        config.stop_token_ids = set(self.end_ids)
        for name, ours in SAMPLING.items():
            if parameters.get(name) is not None:
                setattr(config, ours, parameters[name])
        config.max_new_tokens = min(config.max_new_tokens, room)
        config.do_sample = parameters.get("temperature", 0) > 0
        if not config.do_sample:
            config.temperature = 1.0
        if config.ignore_eos:
            config.eos_token_id, config.stop_token_ids = -1, set()
        if self.lookup_tokens:
            config.num_assistant_tokens, config.max_ngram_size = self.lookup_tokens, LOOKUP_NGRAM
        config.logprobs = 1 if parameters.get("logprobs") else 0
        config.validate()
        return config

    def _admit(self, generation: Generation) -> None:
        """Give a request a slot."""
        try:
            ids = self.tokenizer.encode(generation.prompt).ids
            if len(ids) > 1 and ids[0] == ids[1] == self.begin_id:
                ids = ids[1:]  # the chat template wrote it already
            generation.input_tokens = len(ids)
            if not 0 < len(ids) < self.context:
                raise ValueError(f"the prompt has {len(ids)} tokens; 1 to {self.context - 1} fit")
            config = self._config(generation.parameters, self.context - len(ids))
            tensor = ov.Tensor(np.array([ids], dtype=np.int64))
            handle = self.pipeline.add_request(self._next_id, tensor, config)
        except Exception as failure:  # a bad request ends alone
            generation.tell(Piece("", 0, error=str(failure)))
            return
        self.counted["prefix_cache_queried_tokens_total"] += len(ids)
        self.counted["prefix_cache_hit_tokens_total"] += self.prefixes.hits(ids)
        self.running[self._next_id] = _Running(self._next_id, generation, handle, self.tokenizer, ids)
        self._next_id += 1

    def _drop_cancelled(self) -> None:
        """End requests whose clients left: it looks at those that run and were not looked at for longest, and at some of
        those that wait, in turn."""
        now = time.monotonic()
        due = [running for running in self.running.values() if running.generation.look_after <= now]
        for running in sorted(due, key=lambda running: running.generation.look_after)[:LOOKS]:
            if last := self._left(running.generation):
                self._end(running.key, last)
        for _ in range(min(WAITING_LOOKS, len(self.queue))):
            self._turn = (self._turn + 1) % len(self.queue)
            generation = self.queue[self._turn]
            if last := self._left(generation):
                del self.queue[self._turn]
                generation.tell(last)
                if not self.queue:
                    break

    def _left(self, generation: Generation) -> Piece | None:
        """The last piece of a request whose client left, or cannot be asked after."""
        generation.look_after = time.monotonic() + LOOK_SECONDS
        try:
            if not generation.is_cancelled():
                return None
            self._count_cancelled(generation)
            return Piece("", 0, "cancelled")
        except Exception as failure:
            traceback.print_exc()
            return Piece("", 0, error=f"{type(failure).__name__}: {failure}")

    def _count_cancelled(self, generation: Generation) -> None:
        self.counted["cancelled_requests_total"] += 1
        asked = int(generation.parameters.get("max_tokens") or self.context)
        self.counted["saved_tokens_total"] += max(
            0, min(asked, self.context - generation.input_tokens) - generation.output_tokens
        )

    def _end(self, key: int, last: Piece) -> None:
        """Take a request's slot away, and tell it why."""
        running = self.running.pop(key)
        running.handle.cancel()
        self._freeing = FREEING_STEPS
        running.generation.tell(last)

    def _take(self) -> bool:
        """Queue what has come in since the last step; False once the end was among it. Idle: wait for work.

        Triton unloads no model of which a request is kept.
        """
        wait = not (self.running or self.queue or self._freeing)
        while True:
            try:
                arrived = self.inbox.get() if wait else self.inbox.get_nowait()
            except queue.Empty:
                return True
            if arrived is None:
                return False
            if len(self.queue) >= self.limit and len(self.running) >= self.most:
                arrived.tell(Piece("", 0, error=f"{self.limit} requests wait already"))
            else:
                self.queue.append(arrived)
            wait = False

    def _fill(self) -> None:
        """Give free slots to those that wait, in the order of their arrival."""
        while self.queue and len(self.running) < self.most:
            generation = self.queue.popleft()
            if generation.look_after < time.monotonic() and (last := self._left(generation)):
                generation.tell(last)
            else:
                self._admit(generation)

    def _fail_all(self, why: str) -> None:
        for key in list(self.running):
            self._end(key, Piece("", 0, error=why))
        while self.queue:
            self.queue.popleft().tell(Piece("", 0, error=why))

    def _advance(self, running: _Running, interval: int, hold: float) -> None:
        """Report what a step added to a request; what that raises ends the request alone."""
        unwritten = not running.generation.output_tokens
        try:
            over = running.advance(interval, hold)
        except Exception as failure:
            traceback.print_exc()
            self._end(running.key, Piece("", 0, error=f"{type(failure).__name__}: {failure}"))
            return
        if over or (unwritten and running.generation.output_tokens):
            self.prefixes.add(running.ids)
        if over:
            del self.running[running.key]
            self._freeing = FREEING_STEPS

    def _step(self) -> None:
        """One forward pass, and what it brought each request."""
        try:
            self.pipeline.step()
            self._failed_steps, self.stepped = 0, time.time()
        except Exception as failure:  # the batch is lost, the engine is not
            traceback.print_exc()
            self._failed_steps += 1
            self._fail_all(f"engine step: {failure}")
            if self._failed_steps >= FAILED_STEPS:
                raise
        interval = self.stream_interval if len(self.running) >= self.stream_interval_from else 1
        hold = max(self.stream_hold, len(self.running) / self.stream_messages)
        for running in list(self.running.values()):
            self._advance(running, interval, hold)
        try:
            self.on_step(self)
        except Exception:
            traceback.print_exc()

    def _loop(self) -> None:
        """No request may stay in a variable here while the loop waits: see ``_take``."""
        draining = False
        while not draining or ((self.running or self.queue) and time.monotonic() < self._drain_until):
            if not self._take():
                draining = True
            self._drop_cancelled()
            self._fill()
            self._freeing = max(0, self._freeing - 1)
            self._step()
        self._fail_all("the model is being unloaded")

    def _ended(self, why: str) -> None:
        """The loop is over, unplanned: nobody would answer these requests any more."""
        while not self.inbox.empty():
            if (arrived := self.inbox.get()) is not None:
                self.queue.append(arrived)
        self._fail_all(f"the engine stopped: {why}")
        self.on_end(why)


def logprobs_json(piece: Piece) -> str:
    return json.dumps([{str(token): entry for token, entry in one.items()} for one in piece.logprobs])


def open_engine(folder: Path, card: dict[str, Any]) -> Any:
    """The engine of a built model, as its card says."""
    if card["engine"] == "openvino-seq2seq":
        from seq2seq import Seq2SeqEngine  # transformers and torch are loaded only where they are used

        return Seq2SeqEngine(folder, card)
    return Engine(folder, card)
