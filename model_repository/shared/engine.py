"""The generation engine: OpenVINO GenAI's continuous batching, driven by one thread.

Life of a request:
1. ``submit`` puts it on the inbox, from any thread.
2. The engine's thread takes it, encodes the prompt and hands it to the pipeline.
3. Each ``step`` of the pipeline runs one forward pass for all running requests.
4. New tokens become text (incremental detokenization); text that may yet turn into a stop string waits.
5. ``on_piece`` is called with what is new, and with the finish reason at the end. The first token
   leaves at once; later ones wait until ``stream_milliseconds`` have passed since the last piece (longer where all
   streams together would exceed ``stream_messages`` a second) and, in a large batch, until there are
   ``stream_interval`` of them. What waits leaves with the next step at the latest
   that ends after that, and with the request's end.
6. A request whose client is gone is cancelled within ``LOOK_SECONDS`` and a step, which frees its KV blocks.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
from openvino_genai.py_openvino_genai import GenerationStatus
from plugin import options
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

FINISHED = {openvino_genai.GenerationFinishReason.STOP: "stop", openvino_genai.GenerationFinishReason.LENGTH: "length"}
# Tokens of one block of the KV cache (OpenVINO's PagedAttention on a CPU).
BLOCK_TOKENS = 32
# Between two looks at whether a client is still there: each is a message to Triton's process and back, and 16 of them
# a step took as long as the step.
LOOK_SECONDS = 0.02
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


@dataclass
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


def split_at_stop(text: str, stops: list[str]) -> tuple[str, str, bool]:
    """``text`` as (what may be shown, what must wait, whether a stop string was met)."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    hold = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - hold], text[len(text) - hold :], False


class _Running:
    """A request inside the pipeline."""

    def __init__(self, key: int, generation: Generation, handle: Any, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.key, self.generation, self.handle, self.tokenizer = key, generation, handle, tokenizer
        self.ids = list(ids)  # of the prompt and of what was written
        self.stream = DecodeStream(skip_special_tokens=True)
        stop = generation.parameters.get("stop") or []
        self.stops: list[str] = [stop] if isinstance(stop, str) else list(stop)
        self.held = ""
        self.unsent = Piece("", 0)
        # The next piece leaves at so many output tokens, and not before that moment.
        self.due_at, self.due_after = 1, 0.0
        self.look_after = 0.0  # when to ask next whether the client is still there

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
                    piece = self.stream.step(self.tokenizer, token) or ""
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

    def __init__(self, folder: Path, card: dict[str, Any], adapter: Path | None = None) -> None:
        """``adapter``: the safetensors file of a LoRA that is added to the checkpoint's weights; PEFT's
        ``adapter_config.json`` beside it says how much."""
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = card["kv_cache_gigabytes"]
        scheduler.max_num_seqs = card["max_sequences"]
        scheduler.max_num_batched_tokens = card["max_batched_tokens"]
        scheduler.enable_prefix_caching = True
        self.most: int = card["max_sequences"]
        self.prefixes = PrefixBook(cached_blocks(folder, card["kv_cache_gigabytes"]))
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
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self.inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self.running: dict[int, _Running] = {}
        self.counted: Counter[str] = Counter()
        self.on_step: Callable[[Engine], None] = lambda engine: None
        self._next_id = 0
        self._drain_until = 0.0
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        """Requests that hold a slot."""
        return min(len(self.running), self.most)

    @property
    def waiting(self) -> int:
        return len(self.running) - self.slots + self.inbox.qsize()

    def submit(self, generation: Generation) -> None:
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
        return not self.running and self.inbox.empty()

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
        config.logprobs = 1 if parameters.get("logprobs") else 0
        config.validate()
        return config

    def _admit(self, generation: Generation) -> None:
        try:
            if len(self.running) >= self.limit:
                raise ValueError(f"{self.limit} requests wait already")
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
            generation.on_piece(generation, Piece("", 0, error=str(failure)))
            return
        self.counted["prefix_cache_queried_tokens_total"] += len(ids)
        self.counted["prefix_cache_hit_tokens_total"] += self.prefixes.hits(ids)
        self.running[self._next_id] = _Running(self._next_id, generation, handle, self.tokenizer, ids)
        self._next_id += 1

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for key, running in list(self.running.items()):
            generation = running.generation
            if now < running.look_after:
                continue
            running.look_after = now + LOOK_SECONDS
            if generation.is_cancelled():
                running.handle.cancel()
                del self.running[key]
                self.counted["cancelled_requests_total"] += 1
                asked = int(generation.parameters.get("max_tokens") or self.context)
                self.counted["saved_tokens_total"] += max(
                    0, min(asked, self.context - generation.input_tokens) - generation.output_tokens
                )
                generation.on_piece(generation, Piece("", 0, "cancelled"))

    def _take(self) -> bool:
        """Admit what has come in since the last step; False once the end was among it. Idle: wait for work.

        Not a part of ``_loop``, whose variables would keep the last request, and Triton unloads no model of which a
        request is kept.
        """
        wait = not self.running
        while True:
            try:
                arrived = self.inbox.get() if wait else self.inbox.get_nowait()
            except queue.Empty:
                return True
            if arrived is None:
                return False
            self._admit(arrived)
            wait = False

    def _fail_all(self, why: str) -> None:
        for running in self.running.values():
            running.handle.cancel()
            running.generation.on_piece(running.generation, Piece("", 0, error=why))
        self.running.clear()

    def _loop(self) -> None:
        draining = False
        while not draining or (self.running and time.monotonic() < self._drain_until):
            if not self._take():
                draining = True
            self._drop_cancelled()
            try:
                # Also with nothing left: the step after a cancellation releases its blocks.
                self.pipeline.step()
            except Exception as failure:  # the batch is lost, the engine is not
                self._fail_all(f"engine step: {failure}")
                time.sleep(0.01)
            interval = self.stream_interval if len(self.running) >= self.stream_interval_from else 1
            hold = max(self.stream_hold, len(self.running) / self.stream_messages)
            for key, running in list(self.running.items()):
                unwritten = not running.generation.output_tokens
                over = running.advance(interval, hold)
                if over or (unwritten and running.generation.output_tokens):
                    self.prefixes.add(running.ids)
                if over:
                    del self.running[key]
            self.on_step(self)
        self._fail_all("the model is being unloaded")


def logprobs_json(piece: Piece) -> str:
    return json.dumps([{str(token): entry for token, entry in one.items()} for one in piece.logprobs])


def open_engine(folder: Path, card: dict[str, Any]) -> Any:
    """The engine of a built model, as its card says."""
    if card["engine"] == "openvino-seq2seq":
        from seq2seq import Seq2SeqEngine  # transformers and torch are loaded only where they are used

        return Seq2SeqEngine(folder, card)
    return Engine(folder, card)
