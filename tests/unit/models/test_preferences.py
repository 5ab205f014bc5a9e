"""What preferences are read from: bad lines are named with what is wrong; and options that belong to the other method."""

import json
from pathlib import Path

import pytest
from genmesh_models import cli, preferences
from genmesh_models.errors import BuildError
from typer.testing import CliRunner

ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
GOOD = {"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_pairs_are_read_as_strings_and_as_messages(tmp_path: Path) -> None:
    replies = {key: [{"role": "assistant", "content": key, "more": 1}] for key in ("chosen", "rejected")}
    path = written(tmp_path / "pairs.jsonl", GOOD, "", {"prompt": ASKED, **replies})
    assert preferences.read_pairs(path) == [
        preferences.Pair([{"role": "user", "content": "a"}], "b", "c"),
        preferences.Pair(ASKED, "chosen", "rejected"),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no json", "Expecting value"),
        ([], "it is no object"),
        ({"prompt": "a", "chosen": "b"}, "it has no rejected"),
        (GOOD | {"prompt": 3}, "prompt is neither"),
        (GOOD | {"prompt": []}, "prompt is neither"),
        (GOOD | {"prompt": ASKED[:1]}, "prompt is neither"),
        (GOOD | {"prompt": [{"role": "robot", "content": "a"}, *ASKED]}, "prompt is neither"),
        (GOOD | {"prompt": {"role": "user", "content": "a"}}, "prompt is neither"),
        (GOOD | {"chosen": None}, "chosen is neither"),
        (GOOD | {"chosen": [{"role": "user", "content": "b"}]}, "chosen is neither"),
        (GOOD | {"rejected": [{"role": "assistant", "content": "b"}] * 2}, "rejected is neither"),
        (GOOD | {"rejected": [{"role": "assistant", "content": 1}]}, "rejected is neither"),
        (GOOD | {"rejected": "b"}, "chosen and rejected are the same"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line: object, why: str, tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", GOOD, line)
    with pytest.raises(BuildError, match=rf"pairs\.jsonl: line 2 is not \{{.*\}}: {why}"):
        preferences.read_pairs(path)


def test_files_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no file"):
        preferences.read_pairs(tmp_path / "nowhere")
    with pytest.raises(BuildError, match="holds no pair"):
        preferences.read_pairs(written(tmp_path / "empty", ""))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BuildError, match="is not UTF-8"):
        preferences.read_pairs(tmp_path / "binary")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--beta", "0.1"], "--beta is of --method dpo"),
        (["--method", "sft", "--beta", "0.1"], "--beta is of --method dpo"),
        (["--method", "ppo"], "there is no method 'ppo'; there is sft, dpo"),
        # What is refused is refused before anything is asked of the generator, which is not built here.
        (["--method", "dpo"], "line 1 is not"),
    ],
)
def test_options_of_the_other_method_are_refused(options: list[str], why: str, tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", {"messages": []})
    done = CliRunner().invoke(
        cli.app, ["finetune", "generator", "mine", "--data", str(path), "--into", str(tmp_path), *options]
    )
    assert isinstance(done.exception, BuildError)
    assert why in str(done.exception)
