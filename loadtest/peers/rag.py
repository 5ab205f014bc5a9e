"""A grounded answer: Genmesh's StreamAnswer, and a LangChain pipeline over the same Triton models and Milvus."""

from __future__ import annotations

import time
from typing import Any

from genmesh.aio import Client

from loadtest.peers import setup
from loadtest.peers.cluster import Bench
from loadtest.peers.processes import HOST, Processes, Worker
from loadtest.peers.rounds import Contender, Metrics, alternate, quantile
from loadtest.peers.workload import rendered, retrieval
from services.rag import prompt
from services.rag.pipeline import DEFAULT_MAX_TOKENS
from services.rag.settings import Settings

COLLECTION, TOP = "peers-rag", 4


def template(bench: Bench) -> str:
    """The whole prompt of Genmesh's pipeline in the generator's chat template, as a format string."""
    text = rendered(bench.checkpoint, prompt.messages("{question}", ["{passages}"]))
    return text.replace("[1] {passages}\n", "{passages}")


async def ours(client: Client, questions: list[str]) -> list[dict[str, Any]]:
    """Each answer, its TTFT and whole time in seconds."""
    found = []
    for question in questions:
        begun, first, text = time.monotonic(), 0.0, ""
        request = {"collection": COLLECTION, "question": question, "top_k": TOP}
        async for event in client.rag.StreamAnswer(request, timeout=120):
            if event.HasField("text"):
                first = first or time.monotonic() - begun
                text += event.text.text
        found.append({"text": text, "ttft": first, "seconds": time.monotonic() - begun})
    return found


async def run(bench: Bench) -> dict[str, Any]:
    passages, asked = retrieval()
    texts = list(passages.values())
    each = 4 if bench.quick else 20
    candidates = Settings.model_fields["candidates"].default
    command = [setup.PEERS_PYTHON, setup.WORKERS / "langchain_rag.py", f"{HOST}:{bench.port('triton')}",
               f"http://{HOST}:{bench.port('milvus')}", template(bench)]  # fmt: skip
    async with Processes() as processes, Client(bench.cluster.target, api_key=bench.key) as client:
        chain = await processes.start(Worker([str(part) for part in command], bench.logs / "langchain.log"))
        documents = [
            {"collection": COLLECTION, "document": {"id": name, "text": text}} for name, text in passages.items()
        ]
        async for event in client.rag.Ingest(documents, timeout=600):
            assert not event.HasField("failed"), event.failed.message
        await chain.call("ingest", texts=texts)

        def questions(turn: int) -> list[str]:
            """Of the set, in turn; question marks at the end make one that comes again new, so that no cache has its vector."""
            numbers = range(turn * each, (turn + 1) * each)
            return [str(asked[i % len(asked)]["text"]) + "?" * (i // len(asked)) for i in numbers]

        def measured(answers: list[dict[str, Any]]) -> Metrics:
            whole, first = [one["seconds"] for one in answers], [one["ttft"] for one in answers]
            return {"answer_p50_ms": quantile(whole, 0.5) * 1e3, "answer_p95_ms": quantile(whole, 0.95) * 1e3,
                    "ttft_p50_ms": quantile(first, 0.5) * 1e3}  # fmt: skip

        async def genmesh(turn: int) -> Metrics:
            return measured(await ours(client, questions(turn)))

        def langchain(*, rerank: bool) -> Contender:
            async def once(turn: int) -> Metrics:
                return measured(
                    await chain.call("answer", questions=questions(turn), top=TOP, candidates=candidates, rerank=rerank,
                                     max_tokens=DEFAULT_MAX_TOKENS)
                )  # fmt: skip

            return once

        contenders = {
            "genmesh": genmesh,
            "langchain, reranked": langchain(rerank=True),
            "langchain": langchain(rerank=False),
        }
        samples = await alternate(contenders, bench.rounds)
        sample = questions(bench.rounds)[:1]
        texts_of = {"genmesh": (await ours(client, sample))[0]["text"]} | {
            name: (await chain.call("answer", questions=sample, top=TOP, candidates=candidates, rerank=rerank,
                                    max_tokens=DEFAULT_MAX_TOKENS))[0]["text"]
            for name, rerank in (("langchain, reranked", True), ("langchain", False))
        }  # fmt: skip
        await chain.call("drop")
        await client.vector_search.DeleteCollection({"collection": COLLECTION})
    return {"samples": samples, "questions": each, "passages": len(texts), "top": TOP, "candidates": candidates,
            "example": {"question": sample[0], "answers": texts_of}}  # fmt: skip
