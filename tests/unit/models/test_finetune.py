"""The chats that an adapter is trained on: bad lines are named."""

import json
from pathlib import Path

import pytest
from genmesh_models import finetune
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
