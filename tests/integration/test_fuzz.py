"""Any message to any method: an answer or an error that says what to change, never INTERNAL, and all goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from genmesh import Client, _services
from genmesh.errors import AlreadyExists, GenmeshError
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from deploy.local.ports import SERVICES
from tests.figures import Figure
from tests.metrics import scrape

METHODS = [(attribute, method) for attribute, name in _services.SERVICES.items() for method in _services.methods(name)]
RIGHT = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
TEXTS = [
    "",
    " ",
    "a",
    "The river runs. It is wide!",
    "fuzz",
    "generator",
    "embedder",
    "n = 1",
    "x'] or id != '",
    "\0",
    "é🜂\u2028",
    "w " * 400,
]
WHOLE = [0, 1, 2, 3, -1, 7, 64, 1000, 2**31 - 1, -(2**31)]
FLOATS = [0.0, 1.0, -1.0, 0.5, 1e-38, 3e38, float("nan"), float("inf"), float("-inf")]


CHAT = [{"role": "user", "content": "Hello"}]
SHORT: dict[str, Any] = {"max_tokens": 8}
IMAGE = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 1}
# What each method answers; half of the messages differ from these in a field or two.
GOOD: dict[str, dict[str, Any]] = {
    "Encode": {"texts": ["a b"], "return_offsets": True},
    "Decode": {"sequences": [{"ids": [5, 6]}]},
    "Count": {"texts": ["a b"]},
    "ApplyChatTemplate": {"messages": CHAT},
    "Chunk": {"text": "One. Two. Three.", "max_tokens": 8},
    "FitToContext": {"texts": ["one", "two"], "fixed_messages": CHAT},
    "Embed": {"inputs": ["a", "b"]},
    "EmbedStream": {"request": {"inputs": ["a"]}},
    "Rerank": {"query": "a", "passages": ["b", "c"]},
    "CreateCollection": {"collection": {"name": "made", "dimension": 2}},
    "GetCollection": {"collection": "fuzz"},
    "ListCollections": {},
    "DeleteCollection": {"collection": "made"},
    "Upsert": {"collection": "fuzz", "entities": [{"id": "a", "vector": [1, 2], "text": "a", "metadata": {"n": 1}}]},
    "UpsertStream": {"request": {"collection": "fuzz", "entities": [{"id": "b", "vector": [1, 2]}]}},
    "Delete": {"collection": "fuzz", "ids": ["a"]},
    "Get": {"collection": "fuzz", "filter": "n = 1"},
    "Search": {"collection": "fuzz", "vectors": [{"values": [1, 2]}], "filter": "n > 0"},
    "ReplaceVectors": {"start": {"collection": "bound", "model_revision": "m@1", "dimension": 2}},
    "Generate": {"prompt": "The river", "sampling": SHORT},
    "StreamGenerate": {"prompt": "The river", "sampling": SHORT},
    "Chat": {"messages": CHAT, "sampling": SHORT},
    "StreamChat": {"messages": CHAT, "sampling": SHORT},
    "GenerateImage": IMAGE,
    "StreamGenerateImage": IMAGE,
    "UpscaleImage": {},
    "ListModels": {},
    "GetModel": {"name": "generator"},
    "Ingest": {"collection": "read", "document": {"id": "a.md", "text": "# A\n\nThe river is 5 km long."}},
    "DeleteDocument": {"collection": "read", "document_id": "a.md"},
    "Reindex": {"collection": "read"},
    "Retrieve": {"collection": "read", "question": "How long is the river?"},
    "Answer": {"collection": "read", "question": "How long is the river?", "max_tokens": 16},
    "StreamAnswer": {"collection": "read", "question": "How long is the river?", "max_tokens": 16},
}


def scalar(draw: random.Random, field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return draw.choice([b"", b"\x89PNG\r\n\x1a\n", draw.randbytes(40)])
            return draw.choice([*TEXTS, "".join(chr(draw.randrange(1, 0xD7FF)) for _ in range(draw.randrange(20)))])
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return draw.choice([*(value.number for value in field.enum_type.values), 77])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return abs(draw.choice(WHOLE))
        case _:
            return draw.choice(WHOLE)


def fill(draw: random.Random, message: Message, share: float = 0.65, depth: int = 0) -> None:
    """Give a share of a message's fields some values."""
    if isinstance(message, struct_pb2.Struct):
        message.update({draw.choice(TEXTS[2:]): draw.choice([None, 1.5, "text", True, [1, "a"], {"b": [None]}])})
        return
    for field in message.DESCRIPTOR.fields:
        if draw.random() > (share if depth < 4 else 0.1):
            continue
        if field.message_type is not None:
            inner = getattr(message, field.name)
            for _ in range(draw.randrange(4)) if field.is_repeated else ():
                fill(draw, inner.add(), share, depth + 1)
            if not field.is_repeated:
                inner.SetInParent()
                fill(draw, inner, share, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(scalar(draw, field) for _ in range(draw.randrange(4)))
        else:
            setattr(message, field.name, scalar(draw, field))


def cheapen(message: Message) -> None:
    """What would only take time: many steps of an image."""
    if "steps" in message.DESCRIPTOR.fields_by_name and message.steps not in (-1, -(2**31)):  # type: ignore[attr-defined]
        message.steps = min(message.steps or 1, 1)  # type: ignore[attr-defined]


def messages(method: Any, seed: int, count: int) -> Iterator[Message]:
    draw, kind = random.Random(f"{method.full_name} {seed}"), _services.message_class(method, output=False)
    for number in range(count):
        message = kind() if number % 2 else _services.to_message(GOOD[method.name], kind)
        fill(draw, message, 0.65 if number % 2 else 0.12)
        cheapen(message)
        yield message


def throw(client: Client, attribute: str, method: Any, seed: int, count: int) -> int:
    """How many of the messages were answered; the others were refused as they should be."""
    call, answered = getattr(getattr(client, attribute), method.name), 0
    with suppress(AlreadyExists):  # a message may have deleted it
        client.vector_search.CreateCollection({"collection": {"name": "fuzz", "dimension": 2}})
    for message in messages(method, seed, count):
        found = None
        try:
            answer = call(iter([message]) if method.client_streaming else message, timeout=30)
            if method.server_streaming:
                list(answer)
            answered += 1
        except GenmeshError as failure:
            found = failure
        if found is not None:
            assert found.code in RIGHT, (method.name, message, found)
            assert found.reason or found.code is grpc.StatusCode.DEADLINE_EXCEEDED, (method.name, message, found)
    return answered


@pytest.mark.parametrize(("attribute", "method"), METHODS, ids=[method.name for _, method in METHODS])
def test_any_message_is_answered_or_refused(client: Client, attribute: str, method: Any) -> None:
    count = 10 if attribute == "diffusion" else 100
    answered = throw(client, attribute, method, 0, count)
    # What is there already cannot be made, what is gone not be deleted.
    once = ("UpscaleImage", "CreateCollection", "DeleteCollection", "DeleteDocument")
    assert answered >= count / 20 or method.name in once


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_many_messages_take_no_memory(running, client: Client, figure: Figure) -> None:
    """2,000 messages to all methods, twice: the second time the services have what they need."""

    def memory() -> dict[str, float]:
        return {
            name: scrape(running.cluster.ports[f"metrics_{name}"])["process_resident_memory_bytes", ""] / 2**20
            for name in SERVICES
        }

    held = []
    for seed in (1, 2):
        for attribute, method in METHODS:
            throw(client, attribute, method, seed, 10 if attribute == "diffusion" else 70)
        held.append(memory())
    for name in SERVICES:
        figure(f"{name}: memory more after 2,000 messages than before", held[1][name] - held[0][name], "MiB")
        assert held[1][name] < held[0][name] + 50


def test_and_all_goes_on(running, client: Client) -> None:
    assert set(running.cluster.status().values()) == {"ready"}
    assert all(model.ready for model in client.models.ListModels({}).models)


@pytest.fixture(scope="module", autouse=True)
def nothing_stays(running) -> Iterator[None]:
    with running.client() as client:
        list(client.rag.Ingest(iter([GOOD["Ingest"]])))
        bound = {"name": "bound", "dimension": 2, "model_revision": "m@1"}
        client.vector_search.CreateCollection({"collection": bound})
        client.vector_search.Upsert({"collection": "bound", "entities": [{"id": "a", "vector": [1, 2]}]})
        yield
        for found in client.vector_search.ListCollections({"page_size": 1000}).collections:
            client.vector_search.DeleteCollection({"collection": found.name})
