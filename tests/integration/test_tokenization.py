"""TokenizationService against the built tokenizers."""

from __future__ import annotations

import pytest
from genmesh import Client
from genmesh.errors import InvalidArgument, NotFound

TEXTS = ["Hello, world!", "", "Zwölf Boxkämpfer 🥊 jagen", "line one\nline two\t42"]


@pytest.mark.parametrize("model", ["generator", "embedder"])
def test_encode_decode_and_count_agree(client: Client, model: str) -> None:
    encoded = client.tokenization.Encode({"model": model, "texts": TEXTS, "return_offsets": True})
    counted = client.tokenization.Count({"model": model, "texts": TEXTS})
    assert [len(s.ids) for s in encoded.sequences] == list(counted.counts)
    assert counted.total == sum(counted.counts)
    for text, sequence in zip(TEXTS, encoded.sequences, strict=True):
        assert all(0 <= a <= b <= len(text) for a, b in zip(sequence.start_offsets, sequence.end_offsets, strict=True))
    decoded = client.tokenization.Decode(
        {"model": model, "sequences": [{"ids": list(s.ids)} for s in encoded.sequences]}
    )
    if model == "generator":  # byte-level: nothing is lost
        assert list(decoded.texts) == TEXTS
    else:
        assert decoded.texts[0] == "hello, world!"


def test_what_would_take_too_much_memory_is_refused_by_the_name_of_its_limit(client: Client) -> None:
    def fault(method: str, **request: object) -> tuple[str, str]:
        with pytest.raises(InvalidArgument) as failure:
            getattr(client.tokenization, method)(request)
        return failure.value.reason, failure.value.field_violations[0].field

    for method in ("Encode", "Count", "FitToContext"):
        assert fault(method, texts=["a", "é" * 100_001]) == ("INVALID_FIELD", "texts[1]")
    assert fault("Encode", texts=["x " * 60_000] * 8, return_offsets=True) == ("ANSWER_TOO_LARGE", "texts")
    encoded = client.tokenization.Encode({"texts": ["x " * 60_000] * 8})
    ids = [list(sequence.ids) for sequence in encoded.sequences]
    assert sum(map(len, ids)) >= 8 * 60_000
    (text,) = client.tokenization.Decode({"sequences": [{"ids": ids[0]}]}).texts
    assert text.split() == ["x"] * 60_000
    assert fault("Decode", sequences=[{"ids": [5] * 200_001}]) == ("INVALID_FIELD", "sequences[0].ids")
    lengths = list(map(len, client.tokenization.Decode({"sequences": [{"ids": [i]} for i in range(1000)]}).texts))
    times = 10 * 2**20 // (200_000 * max(lengths)) + 1
    ids = [lengths.index(max(lengths))] * 200_000
    assert fault("Decode", sequences=[{"ids": ids}] * times) == ("ANSWER_TOO_LARGE", "sequences")


def test_a_long_text_is_chunked_whole(client: Client) -> None:
    text = " ".join(f"Sentence number {i} tells of item {i * 7}." for i in range(20_000))
    chunks = client.tokenization.Chunk({"text": text, "max_tokens": 200}).chunks
    assert " ".join(chunk.text for chunk in chunks) == text
    assert not any(chunk.cut_before or chunk.cut_after for chunk in chunks)


def test_chat_template_is_the_models_own(client: Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with_prompt = client.tokenization.ApplyChatTemplate({"messages": messages})
    without = client.tokenization.ApplyChatTemplate({"messages": messages, "add_generation_prompt": False})
    assert with_prompt.prompt == without.prompt + "<|im_start|>assistant\n"
    assert "Be brief." in with_prompt.prompt
    lead = {"texts": ["<|im_start|>assistant\n"], "model": "generator", "read_control_tokens": True}
    assert with_prompt.token_count == without.token_count + client.tokenization.Count(lead).counts[0]


def test_chunks_cover_the_text_and_overlap(client: Client) -> None:
    text = " ".join(f"Sentence number {i} tells of item {i * 7}." for i in range(80))
    response = client.tokenization.Chunk({"text": text, "max_tokens": 40, "overlap_tokens": 10})
    covered = set()
    for chunk in response.chunks:
        assert text[chunk.start_offset : chunk.end_offset] == chunk.text
        assert 0 < chunk.token_count <= 40
        covered.update(range(chunk.start_offset, chunk.end_offset))
    assert all(i in covered or text[i].isspace() for i in range(len(text)))
    pairs = zip(response.chunks, response.chunks[1:], strict=False)
    assert all(later.start_offset < earlier.end_offset for earlier, later in pairs)


def test_fit_to_context_keeps_the_most_important(client: Client) -> None:
    texts = ["alpha " * 50, "beta " * 5000, "gamma " * 50]
    response = client.tokenization.FitToContext(
        {"texts": texts, "fixed_messages": [{"role": "user", "content": "Why?"}]}
    )
    assert list(response.kept) == [0, 2]
    assert list(response.dropped) == [1]
    assert response.used_tokens <= response.budget_tokens


def test_a_fixed_part_that_fills_the_context_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument) as failure:
        client.tokenization.FitToContext(
            {"texts": ["x"], "fixed_messages": [{"role": "user", "content": "word " * 5000}]}
        )
    assert failure.value.reason == "PROMPT_TOO_LONG"
    assert failure.value.field_violations[0].field == "fixed_messages"


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Encode", {"texts": []}, "texts"),
        ("Encode", {"texts": ["x"] * 1025}, "texts"),
        ("Encode", {"texts": ["fine", "y" * 1_000_001]}, "texts[1]"),
        ("Decode", {"sequences": [{"ids": [1, 10_000_000]}]}, "sequences[0].ids[1]"),
        ("Decode", {"sequences": [{"ids": [-1]}]}, "sequences[0].ids[0]"),
        ("ApplyChatTemplate", {"messages": []}, "messages"),
        ("ApplyChatTemplate", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ("Chunk", {"text": ""}, "text"),
        ("Chunk", {"text": "x", "max_tokens": -1}, "max_tokens"),
        ("Chunk", {"text": "x", "max_tokens": 20, "overlap_tokens": 10}, "overlap_tokens"),
        ("FitToContext", {"texts": []}, "texts"),
        ("FitToContext", {"texts": ["x"], "reserved_output_tokens": 100_000}, "reserved_output_tokens"),
        ("FitToContext", {"texts": ["x"], "max_context_tokens": 100}, "max_context_tokens"),
        ("FitToContext", {"texts": ["x"], "reserved_output_tokens": -5}, "reserved_output_tokens"),
    ],
)
def test_bad_input_names_its_field(client: Client, method: str, request_: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        getattr(client.tokenization, method)(request_)
    assert failure.value.reason == "INVALID_FIELD"
    assert field in [v.field for v in failure.value.field_violations]


@pytest.mark.parametrize("model", ["nobody", "diffuser"])
def test_a_model_without_a_tokenizer_is_not_found(client: Client, model: str) -> None:
    with pytest.raises(NotFound) as failure:
        client.tokenization.Count({"model": model, "texts": ["x"]})
    assert failure.value.reason == "MODEL_NOT_FOUND"
    assert failure.value.metadata["field"] == "model"
