"""Generation: Genmesh, llama.cpp's server, transformers' continuous batching, OpenVINO GenAI alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def cells(quick: bool, default: bool) -> list[Cell]:
    """Of another checkpoint than the default, only what the targets speak of."""
    clients = [1, 4] if quick else [1, 4, 16, 64] if default else [1, 16]
    kinds = [("short", SHORT, 0.0), ("long", LONG, 0.0), ("shared prefix", LONG, SHARED), ("grounded", 0, 0.0)]
    return [Cell(name, tokens, shared, count) for name, tokens, shared in kinds for count in clients]


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


def has_bfloat16() -> bool:
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


async def transformers_worker(bench: Bench, processes: Processes, prompts: list[Prompt]) -> tuple[Worker, str]:
    """transformers in the faster of float32 and, where the processor multiplies it in hardware, bfloat16."""
    kinds = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
    found: dict[str, tuple[float, Worker]] = {}
    for kind in kinds:
        command = [str(setup.PEERS_PYTHON), str(setup.WORKERS / "transformers_batching.py"), str(bench.checkpoint),
                   str(bench.threads), kind]  # fmt: skip
        limited = {"OMP_NUM_THREADS": str(bench.threads)}
        worker = await processes.start(Worker(command, bench.logs / f"transformers-{kind}.log", environment=limited))
        engine = InProcess(worker, 16)
        await engine.run(prompts[:2], 2)
        found[kind] = ((await engine.run(prompts, len(prompts))).seconds, worker)
    best = min(found, key=lambda kind: found[kind][0])
    for kind, (_, worker) in found.items():
        if kind != best:
            await worker.stop()
    return found[best][1], best


async def contenders(
    bench: Bench, processes: Processes, client: Client, new_tokens: int, warm: list[Prompt]
) -> tuple[dict[str, Run], str]:
    """Every contender, loaded, and transformers' data type."""
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
    batching, kind = await transformers_worker(bench, processes, warm)
    genai = [str(setup.TRITON_PYTHON), str(setup.WORKERS / "genai.py"), str(bench.models / "generator")]
    alone = await processes.start(Worker(genai, bench.logs / "genai.log"))
    return {
        "genmesh": Genmesh(client, new_tokens).run,
        "llama.cpp": Llama(served.port, new_tokens).run,
        "transformers": InProcess(batching, new_tokens).run,
        "openvino genai": InProcess(alone, new_tokens).run,
    }, kind


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
    for name in ("llama.cpp", "transformers"):
        written = outcomes[name].written
        found[f"{name}, first token"] = sum(a[0] == b[0] for a, b in zip(base, written, strict=True)) / len(base)
        equal = sum(x == y for a, b in zip(ends, written, strict=True) for x, y in zip(a, b, strict=False))
        found[f"{name}, all tokens"] = equal / max(1, sum(map(len, ends)))
    texts = [prompts.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in base]
    equal = sum(a == b.strip() for a, b in zip(texts, outcomes["genmesh"].written, strict=True))
    found["genmesh, whole text"] = equal / len(texts)
    return found


async def run(bench: Bench) -> dict[str, Any]:
    new_tokens = 16 if bench.quick else 64
    prompts = Prompts(bench.checkpoint)
    warm = prompts.grounded(1, CHECKED, new=False)
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        runs, kind = await contenders(bench, processes, client, new_tokens, warm)
        outcomes = {name: await call(warm, 1) for name, call in runs.items()}
        results = []
        for number, cell in enumerate(cells(bench.quick, bench.checkpoint == setup.DEFAULT)):
            print(f"  {cell.prompts} prompts, {cell.concurrency} clients", flush=True)

            def contender(call: Run, cell: Cell = cell, number: int = number) -> Contender:
                async def once(turn: int) -> Metrics:
                    return (await call(cell.make(prompts, 1000 * (number + 1) + turn), cell.concurrency)).metrics()

                return once

            samples = await alternate({name: contender(call) for name, call in runs.items()}, bench.rounds)
            results.append({"prompts": cell.prompts, "clients": cell.concurrency, "samples": samples})
    return {
        "cells": results, "new_tokens": new_tokens, "agreement": agreement(prompts, outcomes), "checked": CHECKED,
        "lengths": {"short": SHORT, "long": LONG, "shared": SHARED}, "transformers_dtype": kind,
        "generator": "default" if bench.checkpoint == setup.DEFAULT else bench.checkpoint.name,
    }  # fmt: skip
