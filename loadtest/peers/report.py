"""The document: tables of medians, spreads and ratios, and what became of each target."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.peers.rounds import figure, ratios, spread

BEGIN, END = "<!-- peers:begin (written by python -m loadtest.peers) -->", "<!-- peers:end -->"
Result = dict[str, Any]


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
GenAI run the served INT8 folder, llama.cpp Q8_0, transformers {result["transformers_dtype"]}. Genmesh streams text over
gRPC through gateway, service and Triton; llama.cpp's server streams over HTTP; the other two run inside the process
that drives them, with token ids in and out.

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


def generation_targets(result: Result) -> list[tuple[str, str, bool]]:
    rows = []
    for cell in result["cells"]:
        samples = cell["samples"]

        def best(names: Sequence[str], samples: Any = samples) -> list[float]:
            each = zip(*(ratios(samples, "tokens_per_second", "genmesh", name) for name in names), strict=True)
            return [min(one) for one in each]

        where = f"{result['generator']}, {cell['prompts']} prompts, {cell['clients']} clients: tokens/s over"
        wanted: list[tuple[str, Sequence[str], float]] = []
        if cell["clients"] == 16:
            wanted = [("the best of llama.cpp and transformers", ("llama.cpp", "transformers"), 2.0),
                      ("OpenVINO GenAI alone", ("openvino genai",), 0.97)]  # fmt: skip
        elif cell["clients"] == 1:
            wanted = [("llama.cpp", ("llama.cpp",), 1.0)]
        for what, names, bound in wanted:
            found = best(names)
            rows.append(
                (f"{where} {what}, at least {bound}", spread(found, "{:.2f}"), statistics.median(found) >= bound)
            )
    return rows


def embedding_targets(result: Result) -> list[tuple[str, str, bool]]:
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


def hop_targets(result: Result) -> list[tuple[str, str, bool]]:
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
TARGETS: dict[str, Callable[[Result], list[tuple[str, str, bool]]]] = {
    "generation": generation_targets, "embedding": embedding_targets, "hop": hop_targets,
}  # fmt: skip


def _about(results: dict[str, Result]) -> str:
    """Machine, versions and each suite's run."""
    abouts = {name: result["about"] for name, result in results.items()}
    last = max(abouts.values(), key=lambda about: str(about["date"]))
    head = ["suite", "date", "rounds", "threads", "took", "load before", "command"]
    rows = [
        [name, a["date"], str(a["rounds"]), str(a["threads"]), f"{a['seconds']} s", f"{a['load_before']:.1f}", f"`{a['command']}`"]
        for name, a in abouts.items()
    ]  # fmt: skip
    machine = ", ".join(f"{name} {value}" for name, value in last["machine"].items())
    versions = "\n".join(f"- {name}: {text}" for name, text in last["versions"].items())
    return f"Machine: {machine}. Versions:\n\n{versions}\n\n{table(head, rows)}"


def document(results: dict[str, Result]) -> str:
    ordered = {key: results[key] for suite in SECTIONS for key in sorted(results) if key.split()[0] == suite}
    targets = [
        row for key, result in ordered.items() if (suite := key.split()[0]) in TARGETS for row in TARGETS[suite](result)
    ]
    judged = table(
        ["target", "measured", ""], [[what, found, "met" if met else "missed"] for what, found, met in targets]
    )
    sections = "\n".join(SECTIONS[key.split()[0]](result) for key, result in ordered.items())
    return f"""## Against peers

Each round runs every contender once, in changing order, the others idle; figures are medians over the rounds (least to
greatest). A ratio is taken within a round. All processes, the load's too, share the machine's cores.

{judged}

{sections}
### How it was measured

{_about(ordered)}
"""


def write(results: dict[str, Result], path: Path) -> None:
    """Put the document between its markers in the file, at its end where it has none."""
    block = f"{BEGIN}\n{document(results)}{END}"
    text = path.read_text() if path.exists() else "# Performance\n"
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text)
