"""Generation: Genmesh, llama.cpp's server, OpenVINO GenAI alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from genmesh.aio import Client

from loadtest.peers import llama, setup
from loadtest.peers.cluster import Bench
from loadtest.peers.processes import Processes, Worker
from loadtest.peers.rounds import Contender, Metrics, alternate, quantile
from loadtest.peers.workload import Prompt, Prompts

SHORT, LONG, SHARED = 32, 400, 0.75
SLOT_TOKENS = 768  # of llama.cpp's context a request: a long prompt and what is written behind it
CHECKED = 16  # prompts on which greedy tokens are compared
Run = Callable[[Sequence[Prompt], int], Awaitable["Outcome"]]


@dataclass(frozen=True)
class Outcome:
    """One run of one contender."""

    seconds: float
    ttft: list[float]  # seconds, one a request
    tokens: int
    written: list[Any]  # each request's ids; Genmesh's texts

    def metrics(self) -> Metrics:
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "ttft_p50_ms": quantile(self.ttft, 0.5) * 1e3,
            "ttft_p95_ms": quantile(self.ttft, 0.95) * 1e3,
        }


@dataclass(frozen=True)
class Cell:
    """A workload."""

    prompts: str
    tokens: int
    shared: float
    concurrency: int

    def make(self, prompts: Prompts, seed: int) -> list[Prompt]:
        if self.prompts == "grounded":
            return prompts.grounded(seed, self.requests)
        return prompts.make(seed, self.requests, self.tokens, self.shared)

    @property
    def requests(self) -> int:
        return max(4, self.concurrency)


def cells(quick: bool) -> list[Cell]:
    kinds = [("short", SHORT, 0.0), ("long", LONG, 0.0), ("shared prefix", LONG, SHARED), ("grounded", 0, 0.0)]
    found = [
        Cell(name, tokens, shared, count) for name, tokens, shared in kinds for count in ((1, 4) if quick else (1, 16))
    ]
    return found if quick else [*found, *(Cell("short", SHORT, 0.0, count) for count in (4, 64))]


async def crowd(
    call: Callable[[Prompt], Awaitable[tuple[float, Any, int]]], prompts: Sequence[Prompt], concurrency: int
) -> Outcome:
    """``concurrency`` clients share the prompts; each call gives (TTFT in seconds, what was written, tokens)."""
    waiting = list(range(len(prompts)))[::-1]
    results: dict[int, tuple[float, Any, int]] = {}

    async def client() -> None:
        while waiting:
            index = waiting.pop()
            results[index] = await call(prompts[index])

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    seconds = time.monotonic() - begun
    ordered = [results[index] for index in range(len(prompts))]
    return Outcome(seconds, [one[0] for one in ordered], sum(one[2] for one in ordered), [one[1] for one in ordered])


class Genmesh:
    """Through the gateway, as a client streams."""

    def __init__(self, client: Client, new_tokens: int) -> None:
        self.client, self.new_tokens = client, new_tokens

    async def _call(self, prompt: Prompt) -> tuple[float, str, int]:
        begun, first, written, text = time.monotonic(), 0.0, 0, ""
        request = {
            "prompt": prompt.text,
            "sampling": {"max_tokens": self.new_tokens, "ignore_eos": True, "temperature": 0.0},
        }
        async for piece in self.client.generation.StreamGenerate(request, timeout=600):
            if piece.text:
                first = first or time.monotonic() - begun
                text += piece.text
            written = piece.usage.output_tokens or written
        return first or time.monotonic() - begun, text, written

    async def run(self, prompts: Sequence[Prompt], concurrency: int) -> Outcome:
        return await crowd(self._call, prompts, concurrency)


class Llama:
    """llama-server over HTTP, streamed."""

    def __init__(self, port: int, new_tokens: int) -> None:
        self.port, self.new_tokens = port, new_tokens

    async def _call(self, prompt: Prompt) -> tuple[float, list[int], int]:
        first, ids = await llama.complete(self.port, prompt.ids, self.new_tokens)
        return first, ids, len(ids)

    async def run(self, prompts: Sequence[Prompt], concurrency: int) -> Outcome:
        return await crowd(self._call, prompts, concurrency)


class InProcess:
    """An engine driven inside its worker: no server, no client."""

    def __init__(self, worker: Worker, new_tokens: int) -> None:
        self.worker, self.new_tokens = worker, new_tokens

    async def run(self, prompts: Sequence[Prompt], concurrency: int) -> Outcome:
        ids = [prompt.ids for prompt in prompts]
        found = await self.worker.call("run", prompts=ids, new_tokens=self.new_tokens, concurrency=concurrency)
        written = found["ids"]
        return Outcome(found["seconds"], found["ttft"], sum(map(len, written)), written)


async def contenders(bench: Bench, processes: Processes, client: Client, new_tokens: int) -> dict[str, Run]:
    """Every contender, loaded."""
    served = await processes.start(
        llama.server(
            setup.llama_server(),
            setup.gguf(bench.checkpoint),
            bench.threads,
            SLOT_TOKENS,
            bench.logs / "llama-server.log",
        )
    )
    await llama.ready(served.port)
    genai = [str(setup.TRITON_PYTHON), str(setup.WORKERS / "genai.py"), str(bench.models / "generator")]
    alone = await processes.start(Worker(genai, bench.logs / "genai.log"))
    return {
        "genmesh": Genmesh(client, new_tokens).run,
        "llama.cpp": Llama(served.port, new_tokens).run,
        "openvino genai": InProcess(alone, new_tokens).run,
    }


def until(ids: list[int], end: int) -> list[int]:
    """Tokens before the first end token: what is behind it differs, as llama.cpp ignores end tokens by never writing one."""
    return ids[: ids.index(end)] if end in ids else ids


def agreement(prompts: Prompts, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Against OpenVINO GenAI's greedy tokens: shares of equal first tokens and of equal tokens up to the end token;
    of Genmesh, of requests whose text is the very text of those tokens."""
    config = json.loads((prompts.checkpoint / "config.json").read_text())
    base = outcomes["openvino genai"].written
    ends = [until(ids, config["eos_token_id"]) for ids in base]
    found = {}
    written = outcomes["llama.cpp"].written
    found["llama.cpp, first token"] = sum(a[0] == b[0] for a, b in zip(base, written, strict=True)) / len(base)
    equal = sum(x == y for a, b in zip(ends, written, strict=True) for x, y in zip(a, b, strict=False))
    found["llama.cpp, all tokens"] = equal / max(1, sum(map(len, ends)))
    texts = [prompts.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in base]
    equal = sum(a == b.strip() for a, b in zip(texts, outcomes["genmesh"].written, strict=True))
    found["genmesh, whole text"] = equal / len(texts)
    return found


async def run(bench: Bench) -> dict[str, Any]:
    new_tokens = 16 if bench.quick else 64
    prompts = Prompts(bench.checkpoint)
    warm = prompts.grounded(1, CHECKED, new=False)
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        runs = await contenders(bench, processes, client, new_tokens)
        outcomes = {name: await call(warm, 1) for name, call in runs.items()}
        results = []
        for number, cell in enumerate(cells(bench.quick)):
            print(f"  {cell.prompts} prompts, {cell.concurrency} clients", flush=True)

            def contender(call: Run, cell: Cell = cell, number: int = number) -> Contender:
                async def once(turn: int) -> Metrics:
                    return (await call(cell.make(prompts, 1000 * (number + 1) + turn), cell.concurrency)).metrics()

                return once

            samples = await alternate({name: contender(call) for name, call in runs.items()}, bench.rounds)
            results.append({"prompts": cell.prompts, "clients": cell.concurrency, "samples": samples})
    return {
        "cells": results, "new_tokens": new_tokens, "agreement": agreement(prompts, outcomes), "checked": CHECKED,
        "lengths": {"short": SHORT, "long": LONG, "shared": SHARED},
        "generator": "default" if bench.checkpoint == setup.DEFAULT else bench.checkpoint.name,
    }  # fmt: skip
