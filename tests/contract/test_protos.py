"""The protos keep our conventions, and what the README says about them is true."""

from __future__ import annotations

import json

import pytest
from genmesh._services import SERVICES, methods
from google.protobuf import descriptor_pool

from tests.conftest import ROOT

POOL = descriptor_pool.Default()
EXPECTED = {
    "tokenization": "Encode Decode Count ApplyChatTemplate Chunk FitToContext",
    "embedding": "Embed EmbedStream Rerank",
    "vector_search": "CreateCollection GetCollection ListCollections DeleteCollection Upsert UpsertStream Delete Get Search "
    "ReplaceVectors",
    "generation": "Generate StreamGenerate Chat StreamChat",
    "diffusion": "GenerateImage StreamGenerateImage UpscaleImage",
    "rag": "Ingest DeleteDocument Reindex Retrieve Answer StreamAnswer",
    "models": "ListModels GetModel",
}


@pytest.mark.parametrize("attribute", SERVICES)
def test_each_service_has_its_methods(attribute: str) -> None:
    assert [m.name for m in methods(SERVICES[attribute])] == EXPECTED[attribute].split()


def test_every_streamed_message_begins_with_its_content() -> None:
    """Field 1 is content in the streams that TTFT is measured on (see services/gateway/forward.py)."""
    content = {
        "StreamGenerateResponse": "text",
        "StreamChatResponse": "text",
        "StreamGenerateImageResponse": "image",
        "StreamAnswerResponse": "text",
        "EmbedStreamResponse": "response",
    }
    for name, field in content.items():
        assert POOL.FindMessageTypeByName(f"genmesh.v1.{name}").fields_by_number[1].name == field


def test_the_service_config_covers_every_method_once() -> None:
    config = json.loads((ROOT / "protos" / "service_config.json").read_text())
    named: list[tuple[str, str]] = []
    for entry in config["methodConfig"]:
        for name in entry["name"]:
            service = POOL.FindServiceByName(name["service"])
            wanted = [name["method"]] if "method" in name else [m.name for m in service.methods]
            assert all(m in service.methods_by_name for m in wanted), name
            named += [(name["service"], m) for m in wanted]
    every = {(s, m.name) for s in SERVICES.values() for m in methods(s)}
    assert sorted(named) == sorted(every)


def test_nothing_is_retried_that_is_not_safe_to_repeat() -> None:
    config = json.loads((ROOT / "protos" / "service_config.json").read_text())
    retried = [n for e in config["methodConfig"] if "retryPolicy" in e for n in e["name"]]
    for name in retried:
        for method in POOL.FindServiceByName(name["service"]).methods:
            if name.get("method", method.name) == method.name:
                assert not method.server_streaming, f"{name} is a stream"
                assert not method.name.startswith(("Create", "Generate", "Chat", "Answer"))
