"""Model cards and tokenizers: what the build wrote beside each model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from services.runtime.errors import GenmeshError, InvalidArgument, NotFound, invalid

log = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS = 1.0
CLIP_ENDS = "<|startoftext|>", "<|endoftext|>"
# For checkpoints that bring no chat template.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _clip(folder: Path) -> Tokenizer:
    """CLIP's tokenizer (Radford et al. 2021; as transformers' CLIPTokenizerFast) from ``vocab.json`` and ``merges.txt``."""
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    if not all(Path(file).is_file() for file in files):
        raise OSError("no tokenizer of CLIP's")
    tokenizer = Tokenizer(
        models.BPE.from_file(*files, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=CLIP_ENDS[1])
    )
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase(),
    ])  # fmt: skip
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    ends = [(token, tokenizer.token_to_id(token) or 0) for token in CLIP_ENDS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_ENDS[0]} $A {CLIP_ENDS[1]}", special_tokens=ends
    )
    return tokenizer


class Card:
    """The active version of a model: its limits (the build's ``model.json``), tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        self.facts: dict[str, Any] = json.loads((folder / "model.json").read_text())
        self._folder = folder
        self.name: str = self.facts["name"]
        self.task: str = self.facts["task"]
        self.context_tokens: int = self.facts.get("context_tokens", 0)
        self._weights = folder / self.facts["version"] / "weights"

    @property
    def version(self) -> str:
        """The version folder in Triton's repository that requests name, so that one in flight never meets another."""
        return str(self.facts["version"])

    @property
    def adapters(self) -> list[str]:
        """The LoRA adapters beside the model that were trained on these weights, by name."""
        if not self.facts.get("max_adapters"):
            return []
        found = []
        for file in sorted(self._folder.glob("adapters/*/adapter.json")):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(file.read_text()).get("base_sha256") == self.facts.get("source_sha256"):
                    found.append(file.parent.name)
        return found

    def check_adapter(self, name: str) -> None:
        """ADAPTER_NOT_FOUND unless the name is empty or that of an adapter of this model."""
        if name and name not in (there := self.adapters):
            raise NotFound(
                f"adapter: {self.name} has no adapter {name!r}; there is {', '.join(there) or 'none'}",
                reason="ADAPTER_NOT_FOUND", metadata={"field": "adapter", "adapter": name, "model": self.name},
            )  # fmt: skip

    def room(self, prompt_tokens: int) -> int:
        """The tokens that an answer may have: what the prompt leaves, or, for an encoder-decoder, the whole context."""
        return self.context_tokens - (1 if self.facts.get("encoder_decoder") else prompt_tokens)

    @property
    def revision(self) -> str:
        """``name@revision``."""
        return f"{self.name}@{self.facts['revision']}"

    @property
    def has_tokenizer(self) -> bool:
        return bool((self._weights / "tokenizer.json").is_file())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of prompts, whose control tokens are read as such."""
        found: Tokenizer = Tokenizer.from_file(str(self._weights / "tokenizer.json"))
        found.no_truncation()
        found.no_padding()
        return found

    @cached_property
    def data_tokenizer(self) -> Tokenizer:
        """Of texts, in which a control token's text is text."""
        found: Tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        found.encode_special_tokens = True
        return found

    @cached_property
    def text_encoders(self) -> list[tuple[Tokenizer, int]]:
        """A diffusion pipeline's tokenizers, each with the tokens that its text encoder reads, the two at the ends included;
        none where their format is not known."""
        found = []
        for folder in sorted(self._weights.glob("tokenizer*/")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                window = int(json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"])
                if (file := folder / "tokenizer.json").is_file():
                    tokenizer: Tokenizer = Tokenizer.from_file(str(file))
                    tokenizer.no_truncation()
                    tokenizer.no_padding()
                else:
                    tokenizer = _clip(folder)
                found.append((tokenizer, window))
        return found

    @cached_property
    def _template(self) -> tuple[jinja2.Template, dict[str, Any]]:
        config: dict[str, Any] = json.loads((self._weights / "tokenizer_config.json").read_text())
        source = config.get("chat_template") or PLAIN_TEMPLATE
        if isinstance(source, list):  # named templates
            source = next((t["template"] for t in source if t["name"] == "default"), PLAIN_TEMPLATE)
        if (file := self._weights / "chat_template.jinja").is_file():
            source = file.read_text()
        tokens = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in config.items()
            if key.endswith("_token") and isinstance(value, str | dict)
        }
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(source), tokens

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """What the tokenizer reads as one token whatever stands around it, such as the marks between a chat's turns."""
        added = {
            token.content for token in self.tokenizer.get_added_tokens_decoder().values() if len(token.content) > 1
        }
        return re.compile("|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)) or "(?!)")

    def harmless(self, text: str) -> str:
        """A text that the tokenizer reads as text only: a space parts what would be a control token."""
        while True:
            parted = self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
            if parted == text:
                return text
            text = parted

    def render_chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, by the model's own template (Jinja, as in transformers). What a message says is never more
        than text of that message."""
        messages = [message | {"content": self.harmless(message["content"])} for message in messages]
        try:
            template, tokens = self._template
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **tokens)
        except Exception as failure:  # a template is a program of the checkpoint's: whatever it raises
            raise invalid(
                "messages", f"the model's chat template refuses them: {failure}", reason="CHAT_TEMPLATE_FAILED"
            ) from None

    def prompt_tokens(self, prompt: str) -> int:
        """The tokens of a prompt as the engine counts them: a leading begin token is never doubled."""
        (encoded,) = self.tokenizer.encode_batch_fast(
            [prompt]
        )  # lets other threads run meanwhile, as encode() does not
        ids = encoded.ids
        begin = self.facts.get("begin_token_id")
        return len(ids) - (len(ids) > 1 and ids[0] == ids[1] == begin)

    def as_sent(self, prompt: str) -> str:
        """Without a begin token that the engine's tokenizer adds again: vLLM would read it twice."""
        begin = self.facts.get("begin_token")
        if begin and prompt.startswith(begin):
            ids = self.tokenizer.encode(begin).ids
            if ids[:2] == [self.facts.get("begin_token_id")] * 2:
                return prompt.removeprefix(begin)
        return prompt

    def check_prompt(self, prompt: str, field: str) -> int:
        """The prompt's tokens; PROMPT_TOO_LONG where no room is left in the context."""
        count = self.prompt_tokens(prompt)
        if count >= self.context_tokens:
            error: GenmeshError = invalid(
                field, f"has {count} tokens; the model's context of {self.context_tokens} holds prompt and answer"
            )
            raise InvalidArgument(
                error.message, reason="PROMPT_TOO_LONG", violations=error.violations,
                metadata={"prompt_tokens": str(count), "context_tokens": str(self.context_tokens)},
            )  # fmt: skip
        return count


class Catalogue:
    """The models below one folder, by name. A new version or model is seen within a second, without a restart.

    Where ``ready`` is set, a new version of a model takes over once Triton has it: it raises RuntimeError where Triton
    says that it has not, and another error where Triton does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: Callable[[Card], Awaitable[None]] | None = None
        self._stamps: dict[Path, int] = {}
        self._cards: dict[Path, Card] = {}
        self._coming: dict[Path, Card] = {}  # versions that Triton has not yet
        self._waiting: asyncio.Task[None] | None = None
        self._next_look = 0.0
        if not self.cards:
            raise SystemExit(f"GENMESH_MODELS_DIR: {folder} holds no built model; run `make models`.")

    @property
    def cards(self) -> dict[str, Card]:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS
            self._look()
        return {card.name: card for card in self._cards.values()}

    def names(self, *tasks: str) -> list[str]:
        """The models that there are for these tasks."""
        return [card.name for card in self.cards.values() if card.task in tasks]

    def _look(self) -> None:
        there = set()
        for path in sorted(self.folder.glob("*/model.json")):
            try:
                there.add(path)
                stamp = path.stat().st_mtime_ns
                if self._stamps.get(path) != stamp:
                    self._take(path, Card(path.parent))
                    self._stamps[path] = stamp
            except (OSError, ValueError, KeyError) as failure:
                log.error("the model card %s cannot be read; the one before stays: %s", path, failure)
        for path in [path for path in self._cards if path not in there]:
            del self._cards[path], self._stamps[path]
            self._coming.pop(path, None)

    def _take(self, path: Path, card: Card) -> None:
        if self.ready is None or path not in self._cards or self._cards[path].version == card.version:
            self._cards[path] = card
            self._coming.pop(path, None)
            return
        self._coming[path] = card
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.get_running_loop().create_task(self._wait(self.ready))

    async def _wait(self, ready: Callable[[Card], Awaitable[None]]) -> None:
        """Turn to each version that comes when Triton has it, or has not the one before any more."""

        async def has(card: Card) -> bool | None:
            try:
                await ready(card)
            except RuntimeError:
                return False
            except Exception:  # it does not answer: which versions it has is not known
                return None
            return True

        told: set[Card] = set()
        while self._coming:
            for path, card in list(self._coming.items()):
                before = self._cards.get(path)
                if before is None:
                    continue  # the model is gone, and this one with it
                if await has(card) or await has(before) is False:
                    if self._coming.get(path) is card:
                        self._cards[path] = self._coming.pop(path)
                elif card not in told:
                    told.add(card)
                    log.warning(
                        "%s: version %s is built, but Triton has not loaded it; version %s goes on",
                        card.name, card.version, before.version,
                    )  # fmt: skip
            if self._coming:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def get(self, name: str, default: str, task: str | None = None) -> Card:
        """The card of ``name``, or of ``default`` where empty; MODEL_NOT_FOUND where there is none for the task."""
        card = self.cards.get(name or default)
        if card is None or (task is not None and card.task != task):
            fitting = sorted(c.name for c in self.cards.values() if task in (None, c.task))
            raise NotFound(
                f"model: there is no model {name or default!r} for this; there is {', '.join(fitting) or 'none'}",
                reason="MODEL_NOT_FOUND", metadata={"field": "model", "model": name or default},
            )  # fmt: skip
        return card

    def with_tokenizer(self, name: str, default: str) -> Card:
        card = self.get(name, default)
        if not card.has_tokenizer:
            raise NotFound(
                f"model: {card.name} has no tokenizer",
                reason="MODEL_NOT_FOUND",
                metadata={"field": "model", "model": card.name},
            )
        return card
