"""The document: tables of medians, spreads and ratios, and what became of each target."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.peers.rounds import figure, ratios, spread

Result = dict[str, Any]
Target = tuple[str, str, bool]  # what, measured, whether it is met
# Genmesh's tokens/s over a peer's, by clients.
WANTED = {
    1: {"llama.cpp": 1.0}, 16: {"llama.cpp": 2.0, "openvino genai": 0.95}, 64: {"openvino genai": 0.95},
}  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _against(samples: Any, metric: str, form: str = "") -> list[str]:
    """A column a contender: its figure, and for peers the ratio of Genmesh's to it."""
    columns = []
    for name, measured in samples.items():
        text = spread(measured[metric], form)
        columns.append(
            text if name == "genmesh" else f"{text}; **{spread(ratios(samples, metric, 'genmesh', name), '{:.2f}')}**"
        )
    return columns


def generation(result: Result) -> str:
    cells, lengths = result["cells"], result["lengths"]
    names = list(cells[0]["samples"])
    head = ["prompts", "clients", *names]
    rates = [[c["prompts"], str(c["clients"]), *_against(c["samples"], "tokens_per_second")] for c in cells]
    firsts = [
        [c["prompts"], str(c["clients"]),
         *(f"{spread(c['samples'][n]['ttft_p50_ms'])} / {spread(c['samples'][n]['ttft_p95_ms'])}" for n in names)]
        for c in cells
    ]  # fmt: skip
    same = "; ".join(f"{name} {share:.1%}" for name, share in result["agreement"].items())
    return f"""### Generation, {result["generator"]}

Generator `{result["generator"]}`: {result["new_tokens"]} new tokens a request, greedy, end tokens ignored. Short prompts
have about {lengths["short"]} tokens, long ones {lengths["long"]}, shared prefixes are the first {lengths["shared"]:.0%}
of long prompts, grounded ones are what the rag service writes of a question and two passages. Genmesh and OpenVINO
GenAI run the served INT8 folder, llama.cpp Q8_0. Genmesh streams text over gRPC through gateway, service and Triton;
llama.cpp's server streams over HTTP; OpenVINO GenAI runs inside the process that drives it, with token ids in and out.

Output tokens/s, and in bold Genmesh's over it, round by round:

{table(head, rates)}

![Throughput against concurrency](peers-generation-{result["generator"]}.png)

Time to first token, p50 / p95 of a round's requests, ms:

{table(head, firsts)}

The same weights: greedy tokens equal to OpenVINO GenAI's on {result["checked"]} prompts as the rag service writes
them, up to the end token: {same}.
"""


def embedding(result: Result) -> str:
    samples, ndcg = result["samples"], result["ndcg"]
    rows = [
        [name, spread(samples[name]["texts_per_second"]),
         "" if name == "genmesh" else spread(ratios(samples, "texts_per_second", "genmesh", name), "{:.2f}"), f"{ndcg[name]:.4f}"]
        for name in samples
    ]  # fmt: skip
    return f"""### Embedding

all-MiniLM-L6-v2, {result["texts"]} texts of 8 to 120 words a round, never sent before; Genmesh through the gateway in one
call, the others inside the process that drives them. sentence-transformers and Infinity compute in float32, Genmesh and
OpenVINO run the served INT8 network.

{table(["", "texts/s", "Genmesh's over it", "nDCG@10"], rows)}
"""


def generation_targets(result: Result) -> list[Target]:
    """Of each cell: tokens/s over each peer, and with one client what the hops add to TTFT."""
    rows = []
    for cell in result["cells"]:
        samples, clients = cell["samples"], cell["clients"]
        where = f"{cell['prompts']} prompts, {clients} clients"
        for peer, bound in WANTED.get(clients, {}).items():
            found = ratios(samples, "tokens_per_second", "genmesh", peer)
            what = f"{where}: tokens/s over {peer}, at least {bound}"
            rows.append((what, spread(found, "{:.2f}"), statistics.median(found) >= bound))
        if clients == 1:
            both = zip(samples["genmesh"]["ttft_p50_ms"], samples["openvino genai"]["ttft_p50_ms"], strict=True)
            added = [ours - theirs for ours, theirs in both]
            what = f"{where}: ms that TTFT has more than OpenVINO GenAI's, at most 3"
            rows.append((what, spread(added, "{:.1f}"), statistics.median(added) <= 3))
    return rows


def embedding_targets(result: Result) -> list[Target]:
    found = ratios(result["samples"], "texts_per_second", "genmesh", "sentence-transformers")
    loss = 1 - result["ndcg"]["genmesh"] / result["ndcg"]["sentence-transformers"]
    return [
        ("embedding, texts/s over sentence-transformers, at least 2.5", spread(found, "{:.2f}"), statistics.median(found) >= 2.5),
        ("nDCG@10 within 0.5 % of sentence-transformers'", f"{-loss:+.2%}", abs(loss) <= 0.005 or loss < 0),
    ]  # fmt: skip


def hop(result: Result) -> str:
    samples, cores, cached = result["samples"], result["cores"], result["cached"]
    head = ["proxy", "calls/s of its core", "calls/s, its core busy", "added at the median, ms", "through it, p50 ms",
            "service alone, p50 ms"]  # fmt: skip
    one, two, gain = spread(cores["one"]), spread(cores["two"]), spread(cores["gain"], "{:.2f}")
    used, each = spread(cores["cores_used"], "{:.2f}"), spread(cores["calls_per_core_second"])
    p50, p95 = spread(cached["p50_ms"], "{:.2f}"), spread(cached["p95_ms"], "{:.2f}")
    rows = [
        [name, spread(m["calls_per_core_second"]), f"{spread(m['calls_per_second'])}, {spread(m['core_busy'], '{:.0%}')}",
         spread(m["added_ms"], "{:.2f}"), spread(m["p50_ms"], "{:.2f}"), spread(m["direct_p50_ms"], "{:.2f}")]
        for name, m in samples.items()
    ]  # fmt: skip
    return f"""### The gateway's hop

`TokenizationService/Count` of five words with {result["clients"]} clients (calls/s) and with one (latency). The proxy has the first core
alone, the service and the load share the rest of the machine's {result["machine_cores"]} cores. Calls/s of its core: calls over the
processor seconds that the proxy used meanwhile, whoever was the bottleneck. The gateway finds the tenant of a key,
signs it, keeps limits and counts; nginx and the bare proxy pass on bytes, with the identity signed beforehand.

{table(head, rows)}

Two gateways on two cores, clients that take turns: {two} calls/s against {one} of one, gain {gain};
together they used {used} cores, {each} calls a core's second. With {result["machine_cores"]} cores
the second gateway shares its core with the load and the service, which bounds the gain.

A cached embedding at the gateway, one client: p50 {p50} ms, p95 {p95} ms.
"""


def search(result: Result) -> str:
    rows = [
        [str(cell["clients"]), *_against(cell["samples"], "queries_per_second"),
         *(f"{spread(m['p50_ms'], '{:.1f}')} / {spread(m['p95_ms'], '{:.1f}')}" for m in cell["samples"].values())]
        for cell in result["cells"]
    ]  # fmt: skip
    head = [
        "clients",
        "Genmesh, queries/s",
        "pymilvus, queries/s; ratio",
        "Genmesh, p50 / p95 ms",
        "pymilvus, p50 / p95 ms",
    ]
    return f"""### Search

{result["size"]} vectors of {result["dimension"]} dimensions, the best {result["limit"]} with text and metadata, one query a
call; pymilvus asks the same server for the same collection. Same ids in the same order: {result["same_ids"]:.1%} of
the queries.

{table(head, rows)}
"""


def rag(result: Result) -> str:
    samples = result["samples"]
    head = ["", "answer, p50 ms", "answer, p95 ms", "first text, p50 ms", "answer, over Genmesh's"]
    rows = [
        [name, spread(m["answer_p50_ms"]), spread(m["answer_p95_ms"]), spread(m["ttft_p50_ms"]),
         "" if name == "genmesh" else spread([1 / ratio for ratio in ratios(samples, "answer_p50_ms", "genmesh", name)], "{:.2f}")]
        for name, m in samples.items()
    ]  # fmt: skip
    answers = "\n".join(f"- {name}: {text.strip()}" for name, text in result["example"]["answers"].items())
    return f"""### A grounded answer

{result["questions"]} questions a round, one after another, on {result["passages"]} passages; {result["top"]} of them in the
prompt. The LangChain pipelines call the same Triton models and the same Milvus with the same prompt; "reranked"
takes the best of {result["candidates"]} candidates as Genmesh does. Genmesh also fits the passages to the context and
checks each sentence against its passage before it sends it, so its first text is a whole checked sentence.

{table(head, rows)}

"{result["example"]["question"]}":

{answers}
"""


# Why a curve of growth.py grows as it does.
WHY = {
    "time to first token": "each token of the prompt is computed once",
    "one request": "each token is a step",
    "all requests at once": "a step for many sequences costs little more than one for a few, until the cores are full",
    "counting tokens, any tenant": "keys and cached entries are found by hash",
    "search, any tenant": "a tenant's collection is found by the hash in its name",
    "search in a collection": "Milvus Lite keeps an HNSW index for each segment of at most 100,000 rows and searches them all",
    "inserting one vector (pymilvus)": "rows go to a log and a table in memory; indexes are built later",
}


def growth(result: Result) -> str:
    rows = []
    for curve in result["curves"]:
        points = zip(curve["sizes"], curve["values"], strict=True)
        medians = "; ".join(f"{size:,}: {figure(statistics.median(values))}" for size, values in points)
        slopes = [f"{curve[name]:.2f}" for name in ("exponent", "upper_exponent")]
        rows.append(
            [curve["name"], curve["of"], medians, curve["unit"], *slopes, curve["growth"], WHY.get(curve["name"], "")]
        )
    ended = f"\nThe collection's curve ends: {result['collection_ended']}.\n" if result.get("collection_ended") else ""
    return f"""### Cost as work grows

Through the gateway where nothing else is said. The exponent is the slope of log(cost) over log(size), over all sizes and
over the upper half, by which the growth is named.

{table(["cost", "of", "size: median", "unit", "exponent", "upper half", "growth", "because"], rows)}
{ended}
![Growth curves](peers-growth.png)
"""


def hop_targets(result: Result) -> list[Target]:
    ours, cores, cached = result["samples"]["genmesh"], result["cores"], result["cached"]
    middle = statistics.median
    return [
        ("gateway, unary calls/s a core, at least 1,800", spread(ours["calls_per_core_second"], "{:.0f}"),
         middle(ours["calls_per_core_second"]) >= 1800),
        ("gateway, added at the median, under 0.7 ms", spread(ours["added_ms"], "{:.2f}"), middle(ours["added_ms"]) < 0.7),
        ("gateway, a second core, at least 1.8 times", spread(cores["gain"], "{:.2f}"), middle(cores["gain"]) >= 1.8),
        ("a cached embedding at the gateway, at most 1.5 ms", spread(cached["p50_ms"], "{:.2f}"), middle(cached["p50_ms"]) <= 1.5),
    ]  # fmt: skip


def cost(result: Result) -> str:
    operations = result["operations"]
    parts = [part for part in next(iter(operations.values()))["processor"] if part != "prometheus"]
    rows = [
        [name, figure(one["calls_per_second"]), figure(one["seconds"] * 1e3), *(figure(one["processor"][part] * 1e3) for part in parts),
         figure(one["redis_commands"])]
        for name, one in operations.items()
    ]  # fmt: skip
    sizes = ", ".join(f"{part} {result['memory'][part]:.0f}" for part in parts)
    return f"""### What one call costs

{result["clients"]} clients in a closed loop; nothing comes from a cache. A chat writes {result["output_tokens"]} tokens,
an answer is a grounded one, an image has 20 steps. Processor milliseconds of each part a call, and commands to Redis:

{table(["call", "calls/s", "its time, ms", *parts, "Redis commands"], rows)}

Memory of each part afterwards (PSS), MiB: {sizes}. Redis has {result["redis_connections"]} connections.
"""


SECTIONS: dict[str, Callable[[Result], str]] = {
    "generation": generation, "embedding": embedding, "hop": hop, "search": search, "rag": rag, "growth": growth, "cost": cost,
}  # fmt: skip
TARGETS: dict[str, Callable[[Result], list[Target]]] = {
    "generation": generation_targets, "embedding": embedding_targets, "hop": hop_targets,
}  # fmt: skip


def _about(about: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
    versions = "; ".join(about["versions"].values())
    return (
        f"Measured on {about['date']} in {about['seconds']} s by `{about['command']}`: {about['rounds']} rounds, {about['threads']} threads"
        f" a contender, load before {about['load_before']:.1f}. Machine: {machine}. Versions: {versions}.\n"
    )


def section(suite: str, result: Result) -> str:
    """A suite's part of the document."""
    text = SECTIONS[suite](result)
    if suite in TARGETS:
        rows = [[what, found, "met" if met else "missed"] for what, found, met in TARGETS[suite](result)]
        text += f"\n{table(['target', 'measured', ''], rows)}\n"
    return f"{text}\n{_about(result['about'])}"


def write(suite: str, result: Result, path: Path) -> None:
    """Put a suite's part between its markers in the file, at its end where it has none."""
    name = f"{suite} {result['generator']}" if suite == "generation" else suite
    begin, end = f"<!-- peers, {name}: begin (written by python -m loadtest.peers) -->", f"<!-- peers, {name}: end -->"
    block = f"{begin}\n{section(suite, result)}{end}"
    text = path.read_text() if path.exists() else "# Performance\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text)
