"""GenerationService against the engine in Triton: streaming, sampling, cancellation, quality."""

from __future__ import annotations

import asyncio

import pytest
from genmesh import Client
from genmesh.aio import Client as AsyncClient
from genmesh.errors import DeadlineExceeded, InvalidArgument, NotFound
from genmesh.v1 import common_pb2

from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import until

LONG = {"prompt": "The river", "sampling": {"max_tokens": 1900, "ignore_eos": True}}


def requests(running, state: str = "running") -> float:
    return scrape(running.cluster.ports["triton_metrics"])[f"genmesh_generator_{state}_requests", 'model="generator"']


@pytest.fixture(autouse=True)
def idle(running) -> None:
    """A request that computes alone rounds as it did the last time; beside others it may not."""
    until(lambda: requests(running) == requests(running, "waiting") == 0, every=0.05)


def test_stream_and_unary_agree(client: Client) -> None:
    request = {"prompt": "The capital of", "sampling": {"max_tokens": 20, "ignore_eos": True}}
    pieces = list(client.generation.StreamGenerate(request))
    whole = client.generation.Generate(request)
    assert "".join(p.text for p in pieces) == whole.text
    assert len(pieces) > 1
    assert pieces[-1].usage == whole.usage
    assert whole.usage.output_tokens == 20
    assert whole.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert 0 < whole.timings.time_to_first_token_seconds <= whole.timings.total_seconds


async def pieces(client: AsyncClient, request: dict) -> list[str]:
    return [piece.text async for piece in client.generation.StreamGenerate(request) if piece.text]


async def test_the_first_token_leaves_alone_and_no_text_is_lost(async_client: AsyncClient) -> None:
    request = {"prompt": "The capital of", "sampling": {"max_tokens": 120, "ignore_eos": True}}
    alone = await pieces(async_client, request)
    whole = await async_client.generation.Generate(request)
    assert "".join(alone) == whole.text
    assert len(alone) <= whole.usage.output_tokens
    request["sampling"]["max_tokens"] = 1  # type: ignore[index]
    assert alone[0] == (await async_client.generation.Generate(request)).text


@pytest.mark.nightly
async def test_tokens_that_come_fast_share_messages(async_client: AsyncClient, figure: Figure) -> None:
    request = {"prompt": "The capital of", "sampling": {"max_tokens": 120, "ignore_eos": True}}
    streams = await asyncio.gather(*(pieces(async_client, request) for _ in range(12)))
    share = sum(map(len, streams)) / (12 * 120)
    figure("generation: messages a token, 12 streams", share, "")
    assert share < 0.9


def test_sampling_follows_its_seed(client: Client) -> None:
    def draw(seed: int) -> str:
        sampling = {"max_tokens": 24, "temperature": 1.5, "seed": seed, "ignore_eos": True}
        return client.generation.Generate({"prompt": "Every town", "sampling": sampling}).text

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_temperature_next_to_nothing_is_none(client: Client) -> None:
    def text(**sampling: float) -> str:
        return client.generation.Generate(
            {"prompt": "The river", "sampling": {"max_tokens": 16, "seed": 1} | sampling}
        ).text

    likeliest = text()
    for temperature in (0, 1e-38, 1e-6):
        assert text(temperature=temperature) == likeliest
    for more in ({"top_p": 0.00001}, {"top_k": 1}, {"repetition_penalty": 10}, {"presence_penalty": -2}):
        assert text(temperature=1e-3, **more)


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client: Client) -> None:
    request = {"prompt": "The capital of", "sampling": {"max_tokens": 40, "ignore_eos": True}}
    text = client.generation.Generate(request).text
    stop = text[10:14]
    request["sampling"]["stop"] = [stop]  # type: ignore[index]
    stopped = client.generation.Generate(request)
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == common_pb2.FINISH_REASON_STOP
    assert "".join(p.text for p in client.generation.StreamGenerate(request)) == stopped.text


def test_chat_ends_by_itself(client: Client) -> None:
    response = client.generation.Chat(
        {"messages": [{"role": "user", "content": "Hello!"}], "sampling": {"max_tokens": 400}}
    )
    assert response.message.role == "assistant"
    assert response.message.content == response.message.content.lstrip()
    assert response.finish_reason == common_pb2.FINISH_REASON_STOP


PROMPTS = [f"The number of {word}" for word in ("apples", "bridges", "clouds", "doors", "engines", "forests")]


async def test_many_at_once_get_their_own_answer(async_client: AsyncClient) -> None:
    """What each asked for, however the batch rounds."""

    async def last(prompt: str, tokens: int):
        request = {"prompt": prompt, "sampling": {"max_tokens": tokens, "ignore_eos": True}}
        return [piece async for piece in async_client.generation.StreamGenerate(request)][-1]

    prompts = ["word " * words for words in range(1, 9)]
    counted = await async_client.tokenization.Count({"texts": prompts})
    ends = await asyncio.gather(*(last(prompt, 20 - number) for number, prompt in enumerate(prompts)))
    assert [end.usage.input_tokens for end in ends] == list(counted.counts)
    assert [end.usage.output_tokens for end in ends] == list(range(20, 12, -1))


@pytest.mark.nightly
async def test_many_at_once_get_the_text_that_one_alone_gets(async_client: AsyncClient, figure: Figure) -> None:
    """But where the batch rounds a close choice to the other side."""
    requests = [{"prompt": prompt, "sampling": {"max_tokens": 12, "ignore_eos": True}} for prompt in PROMPTS]
    alone = ["".join(await pieces(async_client, request)) for request in requests]
    together = await asyncio.gather(*(pieces(async_client, request) for request in requests))
    equal = sum("".join(found) == text for found, text in zip(together, alone, strict=True))
    figure("generation: texts of a batch that are those of one alone", 100 * equal / len(PROMPTS), "%")
    assert equal >= len(PROMPTS) / 2


def test_a_client_that_leaves_frees_its_slot(running, client: Client) -> None:
    def counted(what: str) -> float:
        found = scrape(running.cluster.ports["metrics_generation"])
        return found[f"genmesh_generation_{what}_total", 'model="generator"']

    cancelled, saved = counted("cancelled"), counted("saved_tokens")
    stream = client.generation.StreamGenerate(LONG)
    iterator = iter(stream)
    for _ in range(3):
        next(iterator)
    stream.cancel()
    until(lambda: requests(running) == 0, every=0.01)
    until(lambda: counted("cancelled") == cancelled + 1)
    until(lambda: counted("saved_tokens") > saved)


def test_a_deadline_stops_the_model(running, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        list(client.generation.StreamGenerate(LONG, timeout=0.3))
    until(lambda: requests(running) == 0, every=0.01)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"max_tokens": -1}, "sampling.max_tokens"),
        ({"max_tokens": 10_000_000}, "sampling.max_tokens"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 0}, "sampling.top_p"),
        ({"top_k": 0}, "sampling.top_k"),
        ({"seed": -1}, "sampling.seed"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty"),
        ({"stop": ["x"] * 9}, "sampling.stop"),
        ({"stop": [""]}, "sampling.stop[0]"),
    ],
)
def test_bad_sampling_names_its_field(client: Client, sampling: dict, field: str) -> None:
    from genmesh.v1 import generation_pb2 as pb

    request = pb.GenerateRequest(prompt="x", sampling=pb.SamplingParameters(**sampling))
    for call in (client.generation.Generate, lambda r: list(client.generation.StreamGenerate(r))):
        with pytest.raises(InvalidArgument) as failure:
            call(request)
        assert field in [v.field for v in failure.value.field_violations]


def test_bad_prompts(client: Client) -> None:
    with pytest.raises(InvalidArgument) as empty:
        client.generation.Generate({"prompt": ""})
    assert empty.value.field_violations[0].field == "prompt"
    with pytest.raises(InvalidArgument) as long:
        client.generation.Generate({"prompt": "word " * 5000})
    assert long.value.reason == "PROMPT_TOO_LONG"
    assert int(long.value.metadata["prompt_tokens"]) > int(long.value.metadata["context_tokens"])
    with pytest.raises(InvalidArgument) as chat:
        client.generation.Chat({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})
    assert chat.value.field_violations[0].field == "messages[1].role"
    with pytest.raises(NotFound):
        client.generation.Generate({"model": "embedder", "prompt": "x"})
