"""GGUF files say the same as the checkpoints they were made of; ``run_gguf.py`` makes, reads and compares them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TRITON_PYTHON

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("run_gguf.py")
    command = [str(TRITON_PYTHON), str(script), str(tmp_path_factory.mktemp("gguf"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "name", [*(f"llama {kind}" for kind in KINDS), "llama with biases", "llama 3.1", "qwen2", "qwen3", "sentence piece"]
)
def test_a_file_says_what_its_checkpoint_says(read: dict[str, Any], name: str) -> None:
    """The same weights, positions and tokens; "back": ids that become another text."""
    found = read[name]
    assert found["logits"] < 1e-3  # float32's order of additions
    assert (found["split"], found["back"]) == ([], [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut", "is not a GGUF file, or is damaged"),
        ("other", "is not a GGUF file, or is damaged: GGUF magic invalid"),
        ("bert", "bert.gguf holds a model of the architecture 'bert'; there is llama, qwen2, qwen3"),
        ("split", "its tokenizer splits texts by 'tekken'; there is gpt-2, smollm"),
        ("freqs", "its positions' frequencies (rope_freqs.weight) are not those of Llama 3.1"),
    ],
)
def test_what_cannot_be_served_is_said(read: dict[str, Any], name: str, words: str) -> None:
    assert words in read["refused"][name]
