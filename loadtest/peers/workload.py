"""The texts and prompts of a run; the same seed gives the same."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from genmesh.v1.common_pb2 import ChatMessage
from tokenizers import Tokenizer

from deploy.local.processes import ROOT
from services.rag import prompt


@dataclass(frozen=True)
class Prompt:
    """A text, and its tokens as the generator reads them."""

    text: str
    ids: list[int]


@cache
def retrieval() -> tuple[dict[str, str], list[dict[str, object]]]:
    """Passages by name, and queries, of model_repository/retrieval.jsonl."""
    lines = [json.loads(line) for line in (ROOT / "model_repository" / "retrieval.jsonl").read_text().splitlines()]
    passages = {line["passage"]: line["text"] for line in lines if "passage" in line}
    return passages, [line for line in lines if "passage" not in line]


def fresh(draw: random.Random) -> str:
    """A beginning that nobody sent before, so that no cache has the text behind it."""
    return f"{draw.getrandbits(40):010x}"


def some_words(draw: random.Random, count: int) -> list[str]:
    """Words of the retrieval set's passages, in their order, passage after passage."""
    passages, _ = retrieval()
    words: list[str] = []
    while len(words) < count:
        words += draw.choice(list(passages.values())).split()
    return words[:count]


def texts(seed: int, count: int, least: int = 8, most: int = 120) -> list[str]:
    """Texts of ``least`` to ``most`` words that no other seed gives."""
    draw = random.Random(seed)
    return [f"{fresh(draw)} {' '.join(some_words(draw, draw.randint(least, most)))}" for _ in range(count)]


def rendered(checkpoint: Path, messages: Sequence[ChatMessage]) -> str:
    """Messages in the checkpoint's chat template; their texts alone where it has none."""
    file = checkpoint / "chat_template.jinja"
    if not file.exists():
        return "\n".join(message.content for message in messages)
    begin = json.loads((checkpoint / "tokenizer_config.json").read_text()).get("bos_token") or ""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return str(jinja2.Template(file.read_text()).render(messages=plain, bos_token=begin, add_generation_prompt=True))


class Prompts:
    """Prompts of a given number of tokens."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def _grown(self, draw: random.Random, lead: str, tokens: int) -> str:
        """``lead`` with words behind it, until it has about ``tokens`` tokens."""
        words = some_words(draw, tokens)
        low, high = 0, len(words)
        while low < high:
            middle = (low + high) // 2
            if len(self.tokenizer.encode(" ".join([lead, *words[:middle]])).ids) < tokens:
                low = middle + 1
            else:
                high = middle
        return " ".join([lead, *words[:low]])

    def make(self, seed: int, count: int, tokens: int, shared: float = 0.0) -> list[Prompt]:
        """``count`` prompts of about ``tokens`` tokens; the first ``shared`` of each is the same for all."""
        draw = random.Random(seed)
        lead = self._grown(draw, fresh(draw), int(tokens * shared)) if shared else ""
        prompts = []
        for _ in range(count):
            text = self._grown(draw, f"{lead} {fresh(draw)}".strip(), tokens)
            prompts.append(Prompt(text, self.tokenizer.encode(text).ids))
        return prompts

    def grounded(self, seed: int, count: int, *, new: bool = True) -> list[Prompt]:
        """Prompts as the rag service writes them: a question of the retrieval set on two passages of it.

        ``new``: with a beginning that nobody sent before.
        """
        draw = random.Random(seed)
        passages, queries = retrieval()
        prompts = []
        for query in draw.choices(queries, k=count):
            relevant: dict[str, float] = query["relevant"]  # type: ignore[assignment]
            names = [next(iter(relevant)), draw.choice(list(passages))]
            draw.shuffle(names)
            question = f"{fresh(draw)} {query['text']}" if new else str(query["text"])
            text = rendered(self.checkpoint, prompt.messages(question, [passages[name] for name in names]))
            prompts.append(Prompt(text, self.tokenizer.encode(text).ids))
        return prompts
