"""A known mix of calls, and every counter of every service and model against what happened."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from genmesh import Client
from genmesh.errors import Cancelled, DeadlineExceeded, InvalidArgument, Unauthenticated

from deploy.local.ports import SERVICES
from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import until

Series = tuple[str, str]
# Written in the background, when the store finds time.
BACKGROUND = ('operation="flush"',)
LONG = {"prompt": "The river", "sampling": {"max_tokens": 1900, "ignore_eos": True}}


def counts(running) -> dict[Series, float]:
    """All counters, and how often each histogram observed, but for what grows by itself."""
    ports = [running.cluster.ports[f"metrics_{part}"] for part in SERVICES] + [running.cluster.ports["triton_metrics"]]
    found: dict[Series, float] = {}
    for port in ports:
        for (name, labels), value in scrape(port).items():
            if name.startswith("genmesh_") and name.endswith(("_total", "_count")) and "_event_loop_lag_" not in name:
                found[name, ",".join(sorted(labels.split(",")))] = value
    return found


@dataclass
class Mix:
    """What happened, as series and by how much they must have grown."""

    expected: Counter[Series] = field(default_factory=Counter)

    def add(self, name: str, by: float = 1, **labels: str) -> None:
        text = ",".join(sorted(f'{key}="{value}"' for key, value in labels.items()))
        if by:
            self.expected[f"genmesh_{name}", text] += by

    def call(self, method: str, *hops: str, code: str = "OK", times: int = 1, tenant: str = "alpha") -> None:
        """A call that ended at these servers."""
        for hop in hops:
            self.add(f"{hop}_requests_total", times, method=method, code=code)
            self.add(f"{hop}_request_duration_seconds_count", times, method=method)
            if hop == "gateway" and tenant:
                self.add("gateway_tenant_requests_total", times, tenant=tenant, code=code)

    def stream(self, method: str, *hops: str, end: str, contents: int, code: str = "OK", tenant: str = "alpha") -> None:
        """A stream of so many messages with content."""
        self.call(method, *hops, code=code, tenant=tenant)
        for hop in hops:
            self.add(f"{hop}_streams_total", method=method, end=end)
            self.add(f"{hop}_time_to_first_token_seconds_count", min(1, contents), method=method)
            self.add(f"{hop}_inter_token_latency_seconds_count", max(0, contents - 1), method=method)

    def model(self, service: str, model: str, outcome: str = "ok", times: int = 1) -> None:
        self.add(f"{service}_model_requests_total", times, model=model, outcome=outcome)
        self.add(f"{service}_model_request_duration_seconds_count", times, model=model)

    def written(self, usage, *, tenant: str = "alpha", model: str = "generator") -> None:
        self.add("generation_input_tokens_total", usage.input_tokens, model=model)
        self.add("generation_output_tokens_total", usage.output_tokens, model=model)
        self.add("generation_tenant_tokens_total", usage.input_tokens, tenant=tenant, direction="input")
        self.add("generation_tenant_tokens_total", usage.output_tokens, tenant=tenant, direction="output")
        self.add("generation_model_time_to_first_token_seconds_count", model=model)
        self.add("generation_time_per_output_token_seconds_count", usage.output_tokens > 1, model=model)
        self.add("generator_prefix_cache_queried_tokens_total", usage.input_tokens, model=model)


def growth(before: dict[Series, float], after: dict[Series, float]) -> Counter[Series]:
    return Counter({key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)})


def settle(running, wanted: Counter[Series], before: dict[Series, float], ignored) -> Counter[Series]:
    """The growth, once it is what is wanted or has had time: the last series of a call are written after its answer."""
    end = time.monotonic() + 60
    while True:
        found = Counter({k: v for k, v in growth(before, counts(running)).items() if not ignored(k)})
        if found == wanted or time.monotonic() > end:
            return found
        time.sleep(0.2)


def check(running, before: dict[Series, float], mix: Mix, *, ignored=lambda series: False) -> None:
    def left_out(series: Series) -> bool:
        return any(part in series[1] for part in BACKGROUND) or ignored(series)

    found = settle(running, mix.expected, before, left_out)
    differing = {k: (found.get(k, 0), mix.expected.get(k, 0)) for k in found.keys() | mix.expected.keys()
                 if found.get(k, 0) != mix.expected.get(k, 0)}  # fmt: skip
    assert not differing, "series: (found, expected) " + "\n".join(f"{k}: {v}" for k, v in sorted(differing.items()))


@pytest.fixture
def before(running) -> dict[Series, float]:
    return settled(running)


def settled(running) -> dict[Series, float]:
    """The counters once nothing runs any more and all that ended has been counted."""
    seen = [counts(running)]
    until(lambda: seen.append(counts(running)) or (engine(running) == (0, 0) and seen[-1] == seen[-2]))
    return seen[-1]


def engine(running) -> tuple[float, ...]:
    """How many requests run in the generator, and how many wait."""
    found = scrape(running.cluster.ports["triton_metrics"])
    return tuple(found[f"genmesh_generator_{state}_requests", 'model="generator"'] for state in ("running", "waiting"))


def hits(series: Series) -> bool:
    """The prefix cache's hits depend on what was asked before."""
    return series[0] == "genmesh_generator_prefix_cache_hit_tokens_total"


def test_tokenization(running, client: Client, before) -> None:
    mix = Mix()
    texts = [f"tokens {time.time_ns()} {i}" for i in range(4)]
    first = client.tokenization.Count({"texts": texts})
    again = client.tokenization.Count({"texts": texts[:3]})
    assert list(again.counts) == list(first.counts)[:3]
    with pytest.raises(InvalidArgument):
        client.tokenization.Count({"texts": []})
    mix.call("Count", "gateway", "tokenization", times=2)
    mix.call("Count", "gateway", "tokenization", code="INVALID_ARGUMENT")
    mix.add("tokenization_tokens_total", sum(first.counts) + sum(again.counts))
    mix.add("tokenization_cache_lookups_total", 4, cache="count", outcome="miss")
    mix.add("tokenization_cache_lookups_total", 3, cache="count", outcome="hit")
    mix.add("tokenization_cache_lookup_duration_seconds_count", 2, cache="count")
    check(running, before, mix)


def test_embedding(running, client: Client, before) -> None:
    mix = Mix()
    texts = [f"embedded {time.time_ns()} {i}" for i in range(3)]
    first = client.embedding.Embed({"inputs": texts})
    again = client.embedding.Embed({"inputs": texts})
    assert again.cache.hits == 3
    with running.client(running.beta) as other:  # another tenant's cache
        theirs = other.embedding.Embed({"inputs": texts[:1]})
    for query in ("first", "second"):
        client.embedding.Rerank({"query": query, "passages": texts})
    mix.call("Embed", "gateway", times=2)
    mix.call("Embed", "gateway", tenant="beta")
    mix.call("Embed", "embedding", times=3)
    mix.call("Rerank", "gateway", "embedding", times=2)
    mix.add("embedding_inputs_total", 7, outcome="ok")
    mix.add("embedding_cache_lookups_total", 4, cache="embedding", outcome="miss")
    mix.add("embedding_cache_lookups_total", 3, cache="embedding", outcome="hit")
    mix.add("embedding_cache_lookup_duration_seconds_count", 3, cache="embedding")
    mix.add("embedding_tokens_total", first.usage.input_tokens + theirs.usage.input_tokens, model="embedder")
    mix.add("embedding_tenant_tokens_total", first.usage.input_tokens, tenant="alpha")
    mix.add("embedding_tenant_tokens_total", theirs.usage.input_tokens, tenant="beta")
    mix.add("embedding_batch_size_inputs_count", 2, model="embedder")
    mix.add("embedding_reranked_passages_total", 6, model="reranker")
    mix.add("reranker_passages_total", 6, model="reranker")
    mix.add("reranker_kept_passages_total", 3, model="reranker")
    mix.model("embedding", "embedder", times=2)
    mix.model("embedding", "reranker", times=2)
    check(running, before, mix)


def test_vector_search(running, client: Client, collection: str, before) -> None:
    mix = Mix()
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 4}})
    rows = [{"id": str(i), "vector": [1.0, i, 0, 0]} for i in range(5)]
    client.vector_search.Upsert({"collection": collection, "entities": rows})
    client.vector_search.Search({"collection": collection, "vectors": [{"values": [1, 0, 0, 0]}] * 2})
    client.vector_search.Delete({"collection": collection, "ids": ["0", "1", "none"]})
    for method in ("CreateCollection", "Upsert", "Search", "Delete"):
        mix.call(method, "gateway", "vector_search")
    mix.add("vector_search_entities_upserted_total", 5)
    mix.add("vector_search_entities_deleted_total", 2)
    mix.add("vector_search_queries_total", 2)
    for operation in ("create", "upsert", "search", "delete", "query"):
        mix.add("vector_search_store_duration_seconds_count", operation=operation)
    # How often a collection is described depends on what the service remembers of it.
    check(running, before, mix, ignored=lambda series: 'operation="describe"' in series[1])


def test_streams_that_complete(running, client: Client, before) -> None:
    """One TTFT, and a gap for each message with content after the first, at both hops."""
    mix = Mix()
    both = ("gateway", "generation")
    for _ in range(3):
        contents = 0
        for message in client.generation.StreamGenerate(
            {"prompt": "The river", "sampling": {"max_tokens": 40, "ignore_eos": True}}
        ):
            contents += bool(message.text)
        mix.stream("StreamGenerate", *both, end="completed", contents=contents)
        mix.written(message.usage)
        mix.model("generation", "generator")
    check(running, before, mix, ignored=hits)


def sums(running, part: str) -> dict[str, float]:
    """TTFT's and the gaps' sums and counts at a server, for StreamGenerate."""
    found = scrape(running.cluster.ports[f"metrics_{part}"])
    names = ("time_to_first_token_seconds", "inter_token_latency_seconds")
    return {
        f"{name}_{end}": found[f"genmesh_{part}_{name}_{end}", 'method="StreamGenerate"']
        for name in names
        for end in ("sum", "count")
    }


def five_streams(running, client: Client) -> dict[str, tuple[float, float]]:
    """Name -> (the gateway's mean, the client's), over five streams."""
    earlier = sums(running, "gateway")
    own: dict[str, list[float]] = {"time_to_first_token_seconds": [], "inter_token_latency_seconds": []}
    ttft, gaps = own.values()
    for _ in range(5):
        begun, last = time.monotonic(), None
        for message in client.generation.StreamGenerate(
            {"prompt": "The river", "sampling": {"max_tokens": 30, "ignore_eos": True}}
        ):
            if message.text:
                now = time.monotonic()
                (gaps if last else ttft).append(now - (last or begun))
                last = now
    # The last are written after the answer.
    until(lambda: all(sums(running, "gateway")[f"{n}_count"] - earlier[f"{n}_count"] == len(v) for n, v in own.items()))
    later = sums(running, "gateway")
    return {
        name: ((later[f"{name}_sum"] - earlier[f"{name}_sum"]) / len(values), sum(values) / len(values))
        for name, values in own.items()
    }


@pytest.mark.nightly
def test_ttft_and_gaps_are_the_clients_own(running, client: Client, figure: Figure) -> None:
    """On an idle machine within 5 ms plus 5 %."""
    rounds = [five_streams(running, client) for _ in range(6)]
    best = min(rounds, key=lambda found: max(abs(server - own) for server, own in found.values()))
    for name, (server, own) in best.items():
        figure(f"{name}: the gateway's from the client's", 1000 * abs(server - own), "ms")
        assert abs(server - own) <= 0.05 + 0.5 * own


def partial(stream, messages: int) -> int:
    """Read so many messages with content, or until the stream is cancelled."""
    seen = 0
    with suppress(Cancelled):
        for message in stream:
            seen += bool(message.text)
            if seen == messages:
                break
    return seen


def past_the_deadline(running, client: Client) -> dict[Series, float]:
    """A stream whose deadline passes between its first message and its last; the counters before it."""
    for attempt in range(10):
        before, seen = settled(running), 0
        try:
            for message in client.generation.StreamGenerate(LONG, timeout=0.4 * 1.5**attempt):
                seen += bool(message.text)
        except DeadlineExceeded:
            if seen:
                return before
    raise AssertionError("no stream began before its deadline and went on to it")


@pytest.mark.parametrize("end", ["cancelled", "deadline", "error"])
def test_a_stream_that_does_not_complete(running, client: Client, before, end: str) -> None:
    both = ("gateway", "generation")
    code = {"cancelled": "CANCELLED", "deadline": "DEADLINE_EXCEEDED", "error": "INVALID_ARGUMENT"}[end]
    if end == "cancelled":
        stream = client.generation.StreamGenerate(LONG)
        partial(iter(stream), 3)
        stream.cancel()
    elif end == "deadline":
        before = past_the_deadline(running, client)
    else:
        with pytest.raises(InvalidArgument):
            list(client.generation.StreamGenerate({"prompt": "x", "sampling": {"temperature": 9}}))

    def counted() -> bool:
        found = growth(before, counts(running))
        return all(found[f"genmesh_{hop}_streams_total", f'end="{end}",method="StreamGenerate"'] for hop in both)

    until(counted)
    found = growth(before, settled(running))
    for hop in both:
        assert found[f"genmesh_{hop}_requests_total", f'code="{code}",method="StreamGenerate"'] == 1
        assert sum(v for (name, _), v in found.items() if name == f"genmesh_{hop}_streams_total") == 1
    assert found["genmesh_generation_cancelled_total", 'model="generator"'] == (end != "error")
    assert found["genmesh_generation_model_requests_total", 'model="generator",outcome="cancelled"'] == (end != "error")
    if end != "error":
        assert found["genmesh_generation_saved_tokens_total", 'model="generator"'] > 0


def test_images(running, client: Client, before) -> None:
    mix = Mix()
    client.diffusion.GenerateImage({"prompt": "a red circle", "steps": 4, "seed": 1})
    client.diffusion.GenerateImage({"prompt": "a red circle", "steps": 3, "seed": 1, "upscale": True})
    mix.call("GenerateImage", "gateway", "diffusion", times=2)
    mix.add("diffusion_images_total", 2, model="diffuser")
    mix.add("diffusion_steps_total", 7, model="diffuser")
    mix.add("diffusion_step_duration_seconds_count", 5, model="diffuser")
    mix.add("diffusion_upscaled_images_total", model="upscaler")
    mix.model("diffusion", "diffuser", times=2)
    mix.model("diffusion", "upscaler")
    check(running, before, mix)


def test_whom_the_gateway_turns_away(running, before) -> None:
    mix = Mix()
    for key, reason in (("", "API_KEY_MISSING"), ("gm_wrong", "API_KEY_INVALID")):
        with Client(running.target, api_key=key) as nobody, pytest.raises(Unauthenticated):
            nobody.tokenization.Count({"texts": ["x"]})
        mix.call("Count", "gateway", code="UNAUTHENTICATED", tenant="")
        mix.add("gateway_unauthenticated_requests_total", reason=reason)
    check(running, before, mix)


@pytest.fixture
def ingested(client: Client, collection: str) -> Iterator[str]:
    client.vector_search.CreateCollection({"collection": {"name": collection, "dimension": 384}})
    return collection


def test_a_grounded_answer(running, client: Client, ingested: str, before) -> None:
    """Each stage, and the calls that it makes, once."""
    text = f"The lamp of tower {time.time_ns() % 1000} was lit by Ada Brook in 1911.\n\nThe tower is white."
    document = {"collection": ingested, "document": {"id": "d", "title": "Tower", "text": text}}
    events = list(client.rag.Ingest(iter([document])))
    stored = events[-1].ingested.passage_count
    answer = client.rag.Answer({"collection": ingested, "question": f"Who lit the lamp of the tower? {time.time_ns()}"})
    until(
        lambda: all(
            growth(before, counts(running))[f"genmesh_{hop}_requests_total", 'code="OK",method="Answer"']
            for hop in ("rag", "gateway")
        )
    )
    found = growth(before, settled(running))
    grew = lambda name, **labels: found[f"genmesh_{name}", ",".join(sorted(f'{k}="{v}"' for k, v in labels.items()))]  # noqa: E731
    assert answer.citations
    assert grew("rag_documents_total", outcome="ingested") == 1
    assert grew("rag_passages_stored_total") == stored == grew("vector_search_entities_upserted_total")
    assert grew("rag_citations_total") == len(answer.citations)
    assert sum(v for (name, _), v in found.items() if name == "genmesh_rag_answers_total") == 1
    for stage in ("embed", "search", "rerank", "fit", "check", "generate"):
        assert grew("rag_stage_duration_seconds_count", stage=stage) == 1, stage
    for hop, method, times in (
        ("embedding", "Rerank", 2), ("tokenization", "FitToContext", 1), ("vector_search", "Search", 1),
        ("generation", "StreamChat", 1), ("rag", "Answer", 1), ("gateway", "Answer", 1), ("gateway", "Ingest", 1),
    ):  # fmt: skip
        assert grew(f"{hop}_requests_total", method=method, code="OK") == times, (hop, method)
    assert grew("generation_output_tokens_total", model="generator") == answer.usage.output_tokens
    assert grew("generation_input_tokens_total", model="generator") == answer.usage.input_tokens
    assert grew("rag_streams_total", method="Ingest", end="completed") == 1


def test_the_engine_counts_prefixes_that_it_has_seen(running, client: Client, before) -> None:
    prompt = " ".join(f"word{time.time_ns()}x{i}" for i in range(20))

    def grown() -> float:
        return growth(before, counts(running))["genmesh_generator_prefix_cache_hit_tokens_total", 'model="generator"']

    first = client.generation.Generate({"prompt": prompt, "sampling": {"max_tokens": 2}})
    early = grown()
    client.generation.Generate({"prompt": prompt, "sampling": {"max_tokens": 2}})
    whole_blocks = (first.usage.input_tokens - 1) // 32 * 32
    assert whole_blocks >= 64
    until(lambda: grown() - early == whole_blocks)


def test_waiting_requests_are_shown(running, client: Client) -> None:
    """More prompts than the engine has slots: some run, some wait, and at the end none."""

    def some_wait() -> bool:
        runs, waits = engine(running)
        return runs >= 2 and waits >= 1

    streams = [client.generation.StreamGenerate(LONG) for _ in range(80)]
    readers = [threading.Thread(target=partial, args=(iter(stream), 30), daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    try:
        until(some_wait, every=0.02)
    finally:
        for stream in streams:
            stream.cancel()
        for reader in readers:
            reader.join(60)
    until(lambda: engine(running) == (0, 0))
