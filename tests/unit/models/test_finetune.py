"""What an adapter is trained on: bad lines are named, and a base that is not the one that is served."""

import json
from pathlib import Path

import pytest
from genmesh_models import catalogue, finetune
from genmesh_models.errors import BuildError

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "more": 1}


def test_chats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n")
    assert finetune.read_chats(path) == [GOOD["messages"]] * 2


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"messages": 3}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
        '{"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "b"}]}',
    ],
)
def test_a_line_that_is_no_chat_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(BuildError, match=r"line 2 is not \{"):
        finetune.read_chats(path)


def test_files_without_chats(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no file"):
        finetune.read_chats(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BuildError, match="holds no chat"):
        finetune.read_chats(tmp_path / "empty")


def test_an_adapter_of_other_weights_than_were_built_is_refused(tmp_path: Path) -> None:
    source, model = tmp_path / "checkpoint", tmp_path / "models" / "mine"
    for folder in (source, model):
        folder.mkdir(parents=True)
    (source / "model.safetensors").write_bytes(b"new")
    card = {"version": "3", "source": "before", "max_adapters": 4, "source_sha256": {"model.safetensors": "0" * 64}}
    (model / "model.json").write_text(json.dumps(card))
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    )
    facts = {"task": "generate", "source": str(source), "precision": "int8-weights"}
    entry = catalogue.entry_of("mine", facts, "cpu", "models.yaml")
    with pytest.raises(BuildError, match=r"mine: version 3 was built from other weights \(before\)"):
        finetune.finetune(
            entry, "plain", chats, model.parent, quantized=False, rank=8, epochs=1, rate=1e-3, seed=1, say=print
        )
    chats.write_bytes(b"\xff\xfe")
    with pytest.raises(BuildError, match="is not UTF-8"):
        finetune.read_chats(chats)
