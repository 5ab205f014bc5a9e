"""What unit tests share: an in-memory model with a tiny tokenizer, and the call of a tenant."""

import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from services.runtime import deadline, identity
from services.runtime.models import Card

# The same examples each time, and none too slow: the machine may be busy. No database: nothing is written into the tree.
settings.register_profile(
    "unit",
    deadline=None,
    database=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")

CORPUS = ["The pump runs at five bar. The valve is closed at night, and the crew sleeps.", "One two three four five."]
BEGIN = "<|begin|>"


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE whose id 0 is the begin token, put before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=[BEGIN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    return train_tokenizer().to_str()


@pytest.fixture
def make_card(tmp_path: Path, tokenizer_json: str) -> Callable[..., Card]:
    """Builds a model's folder below tmp_path, as the build would, and reads its card."""

    changed = count(1_000_000_000)

    def make(
        name: str = "generator",
        *,
        task: str = "generate",
        tokenizer: bool = True,
        template: str | None = None,
        jinja_file: str | None = None,
        config: dict[str, Any] | None = None,
        **facts: Any,
    ) -> Card:
        weights = tmp_path / name / facts.get("version", "1") / "weights"
        weights.mkdir(parents=True)
        all_facts = {"name": name, "task": task, "version": "1", "revision": "abc", "context_tokens": 64} | facts
        (tmp_path / name / "model.json").write_text(json.dumps(all_facts))
        # A time stamp of its own: two writes within one tick of the file system's clock would have the same.
        os.utime(tmp_path / name / "model.json", ns=(0, next(changed)))
        if tokenizer:
            (weights / "tokenizer.json").write_text(tokenizer_json)
        settings = (config or {}) | ({"chat_template": template} if template else {})
        (weights / "tokenizer_config.json").write_text(json.dumps(settings))
        if jinja_file:
            (weights / "chat_template.jinja").write_text(jinja_file)
        return Card(tmp_path / name)

    return make


@pytest.fixture
def as_tenant() -> Callable[[str], None]:
    """Makes the test's task serve a call of a tenant."""

    def enter(tenant: str) -> None:
        identity.enter(identity.Call(tenant, "request-1", "token"))

    return enter


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    """Tests that are no coroutines share one context: a call's deadline would end calls of later ones."""
    yield
    deadline.enter(math.inf)
