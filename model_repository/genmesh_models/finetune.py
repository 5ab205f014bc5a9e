"""LoRA adapters (Hu et al. 2021), and QLoRA's (Dettmers et al. 2023): a frozen base in 4 bits, an adapter in 16.

The data is a JSONL of chats, ``{"messages": [{"role": ..., "content": ...}, ...]}`` a line, laid out by
the base's own chat template. The loss counts the tokens of each chat's last message only. What does not depend on the loss
(``Training``) serves training on preferences (preferences.py) too.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from plugin import has_bfloat16

from genmesh_models import lora, sources
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError

T = TypeVar("T")
Encoded = tuple[list[int], int]  # token ids, and a number that goes with them
ROLES = ("system", "user", "assistant")
LEAST_STEPS = 100
WARMUP = 10
TOKENS = 1024  # tokens in a batch, padding included: small data sets need many steps more than large batches
# Evaluations of the held-out chats in a training; and from how many chats on a tenth is held out by default.
EVALUATIONS, HELD_OUT_FROM = 20, 50
# The services' own, for checkpoints that bring no chat template (services/runtime/models.py).
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# What LoRA is added to, by architecture: every linear layer of a block.
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def read_chats(path: Path) -> list[list[dict[str, str]]]:
    """The chats of a JSONL file; BuildError names the line at fault."""
    chats = []
    for number, line in lines_of(path):
        try:
            messages = json.loads(line)["messages"]
            good = all(m["role"] in ROLES and isinstance(m["content"], str) for m in messages)
        except (ValueError, KeyError, TypeError):
            good, messages = False, []
        if not good or len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BuildError(
                f'{path}: line {number} is not {{"messages": [{{"role": "user", ...}}, {{"role": "assistant", ...}}]}}'
            )
        chats.append([{"role": m["role"], "content": m["content"]} for m in messages])
    if not chats:
        raise BuildError(f"{path} holds no chat")
    return chats


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1; BuildError where it cannot be read."""
    if not path.is_file():
        raise BuildError(f"there is no file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other ends of lines may be inside of a chat
    except UnicodeDecodeError as failure:
        raise BuildError(f"{path} is not UTF-8: {failure.reason} at byte {failure.start}") from None
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def encode(tokenizer: Any, chat: list[dict[str, str]], longest: int) -> Encoded | None:
    """Token ids, and where the answer begins; None where the chat is longer than the context."""
    from transformers import BatchEncoding

    options: dict[str, Any] = {} if tokenizer.chat_template else {"chat_template": PLAIN_TEMPLATE}

    def ids(messages: list[dict[str, str]], *, ask: bool) -> list[int]:
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, tokenize=True, **options)
        return list(found["input_ids"] if isinstance(found, BatchEncoding) else found)

    prompt, whole = ids(chat[:-1], ask=True), ids(chat, ask=False)
    end = tokenizer.eos_token_id
    # ChatML's template goes on after the end of the answer, which nobody should learn to write.
    if end in whole[len(prompt) :]:
        whole = whole[: len(whole) - whole[::-1].index(end)]
    else:
        whole.append(end)
    if len(whole) > longest:
        return None
    # Where the template's prompt is not the beginning of the whole, from the first difference on.
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return whole, start


def split(chats: list[T], share: float | None, seed: int) -> tuple[list[T], list[T]]:
    """Chats (or pairs) to train on, and those held out: a share, or where none is said a tenth of at least HELD_OUT_FROM."""
    share = share if share is not None else 0.1 if len(chats) >= HELD_OUT_FROM else 0.0
    count = math.ceil(len(chats) * share)
    order = list(range(len(chats)))
    random.Random(seed).shuffle(order)
    return [chats[i] for i in sorted(order[count:])], [chats[i] for i in sorted(order[:count])]


def device_of(name: str) -> Any:
    """A device by its torch name: cpu, cuda, cuda:1."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise BuildError(f"there is no device {name!r}; there is cpu, cuda, cuda:1 ...") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BuildError("this machine has no GPU that PyTorch can use; --device cpu trains on its processor")
    return device


def losses(model: Any, batch: list[Encoded], pad: int) -> tuple[Any, int]:
    """The sum of the answers' tokens' losses, and how many tokens these are."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    tokens = torch.full((len(batch), width), pad)
    labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for row, (ids, begin) in enumerate(batch):
        start = max(1, begin)  # nothing foretells the first token
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, start - 1 : len(ids) - 1] = torch.tensor(ids[start:])
        mask[row, : len(ids)] = 1
    tokens, labels, mask = (one.to(model.device) for one in (tokens, labels, mask))
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = whole.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    # A vocabulary is wide: logits are computed where an answer's token is foretold, and nowhere else.
    wanted = labels != -100
    logits = whole.get_output_embeddings()(hidden[wanted])
    return torch.nn.functional.cross_entropy(logits.float(), labels[wanted], reduction="sum"), int(wanted.sum())


def mean_loss(model: Any, batches: list[list[Encoded]], pad: int) -> float:
    """The mean loss of the answers' tokens, without training."""
    import torch

    model.eval()
    with torch.no_grad():
        found = [losses(model, batch, pad) for batch in batches]
    model.train()
    return float(sum(total.item() for total, _ in found) / sum(count for _, count in found))


@dataclass
class Training:
    """An adapter in training on what a generator serves, and the best of it so far, whatever the loss."""

    name: str
    into: Path  # Triton's model repository
    card: dict[str, Any]  # of the version that answers
    sums: dict[str, str]  # SHA-256 of the files that the base was built from
    staged: Path  # where the adapter is saved before it is placed
    where: Any  # torch.device
    tokenizer: Any
    model: Any  # PeftModel with one adapter, "default"
    trained: list[Any]  # its parameters
    rank: int
    quantized: bool
    rate: float
    patience: int
    say: Callable[[str], None]
    lowest: float = math.inf  # held-out loss
    worse: int = 0  # evaluations since then

    @property
    def half(self) -> bool:
        """Whether it computes in bfloat16: where the processor has it, 1.5 times as fast, and as good (docs/models.md)."""
        return not self.quantized and (self.where.type != "cpu" or has_bfloat16())

    @property
    def longest(self) -> int:
        """Tokens of the context."""
        return int(self.card["context_tokens"])

    def divided(
        self, encoded: list[T], given: int, data: Path, share: float | None, seed: int, what: str = "chat"
    ) -> tuple[list[T], list[T]]:
        """To train on, and held out, of those of the ``given`` ones that fit into the context; BuildError where none is left."""
        if not encoded:
            raise BuildError(f"{data}: no {what} fits into the context of {self.longest} tokens")
        if len(encoded) < given:
            self.say(f"{given - len(encoded)} of {given} {what}s are longer than the context and are left out")
        learned, kept = split(encoded, share, seed)
        if not learned:
            raise BuildError(f"{data}: of {len(encoded)} {what}s none is left to train on; hold out less")
        return learned, kept

    def planned(
        self, learned: list[Encoded], kept: list[Encoded], epochs: int | None, most: int, seed: int, what: str = "chat"
    ) -> tuple[list[list[Encoded]], list[list[Encoded]]]:
        """The batches of all steps, and those of an evaluation, of at most ``most`` tokens each."""
        import torch

        order = torch.Generator().manual_seed(seed)
        once = batched(learned, order, most)
        checks = batched(kept, order, most) if kept else []
        epochs = epochs or max(3, math.ceil(LEAST_STEPS / len(once)))
        steps = once + [b for _ in range(epochs - 1) for b in batched(learned, order, most)]
        parameters = sum(p.numel() for p in self.trained)
        aside = f", {len(kept)} held out" if kept else ""
        self.say(
            f"{parameters:,} parameters to train on {len(learned)} {what}s{aside}, {epochs} epochs of {len(once)} steps"
        )
        return steps, checks

    def save(self) -> None:
        """The adapter as it is now, without another that the trainer keeps beside it."""
        self.model.save_pretrained(str(self.staged), selected_adapters=["default"])

    def ends(self, held_out_loss: float) -> bool:
        """Keep the adapter where this is the lowest loss; whether training ends, for ``patience`` evaluations had none."""
        if held_out_loss < self.lowest:
            self.lowest, self.worse = held_out_loss, 0
            self.save()
            return False
        self.worse += 1
        if self.worse < self.patience:
            return False
        self.say(
            f"no lower in {self.patience} evaluations: the adapter with the lowest held-out loss ({self.lowest:.4f}) is kept"
        )
        return True

    def place(self, loss: float, facts: dict[str, Any], *, checked: bool) -> Path:
        """Put the adapter in place; its folder. ``checked``: there were evaluations. BuildError where it diverged."""
        if not all(bool(p.isfinite().all()) for p in self.trained) or (checked and self.lowest == math.inf):
            raise BuildError(f"training {self.name} went astray (loss {loss}); try a lower --rate than {self.rate:g}")
        if not checked:
            self.save()
        shutil.rmtree(base_folder(self.staged), ignore_errors=True)
        about = {"name": self.name, "rank": self.rank, "quantized_base": self.quantized}
        return lora.place(self.staged, self.into, self.card, about | facts | {"base_sha256": self.sums})


def base_folder(staged: Path) -> Path:
    """Where a merged base is, beside the staged adapter."""
    return staged.with_name(f"{staged.name}-base")


def begun(
    entry: Entry, name: str, into: Path, *, quantized: bool, rank: int, rate: float, seed: int, device: str, patience: int,
    start: Path | None, say: Callable[[str], None],
) -> Training:  # fmt: skip
    """The base that is served, with a new adapter or the one in ``start`` on it; BuildError where none could be served."""
    card, plain, sums = lora.base_of(entry, name, into)
    where = device_of(device)
    if start is not None:
        rank = lora.checked(entry, start, plain)
    staged = lora.staging(entry, name, into)
    # What is served is the checkpoint with the catalogue's own adapter in it.
    base = sources.merged(entry, plain, base_folder(staged))
    import torch
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    options: dict[str, Any] = {"dtype": torch.float32}
    if quantized:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
        )  # fmt: skip
        options["device_map"] = {"": where}
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    kind = model.config.model_type
    adapter_dtype = torch.bfloat16 if quantized else torch.float32
    if start is not None:
        model = PeftModel.from_pretrained(model, str(start), is_trainable=True, autocast_adapter_dtype=False)
    else:
        model = get_peft_model(
            model,
            LoraConfig(
                task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
                target_modules=TARGETS.get(kind, TARGETS[""]), fan_in_fan_out=kind == "gpt2",
            ),
            autocast_adapter_dtype=False,
        )  # fmt: skip
    model.peft_config["default"].base_model_name_or_path = entry.source
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(adapter_dtype)
    if not quantized:
        model = model.to(where)
    return Training(
        name, into, card, sums, staged, where, tokenizer, model, trained, rank, quantized, rate, patience, say
    )


def share_of_rate(step: int, steps: int) -> float:
    """How much of the peak rate a step has, counted from 0: it rises for WARMUP steps, and falls by a cosine."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def finetune(
    entry: Entry, name: str, data: Path, into: Path, *, quantized: bool, rank: int, epochs: int | None, rate: float,
    seed: int, say: Callable[[str], None], show: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    device: str = "cpu", held_out: float | None = None, patience: int = 4, batch_tokens: int = TOKENS,
    start: Path | None = None,
) -> Path:  # fmt: skip
    """Train an adapter for a generator and put it beside its versions; the adapter's folder. Without ``epochs`` for
    LEAST_STEPS steps, and at least three times over the data: a few chats are a step or two an epoch, which teaches nothing.
    ``start``: an adapter in PEFT's format that goes on being trained, of its own rank.

    The held-out chats are evaluated EVALUATIONS times. The adapter with the lowest mean loss on them is kept, and training
    ends after ``patience`` evaluations without a lower one. ``say``: a line now and then; ``show``: each step, of how many, and its loss.
    """
    chats = read_chats(data)
    work = begun(
        entry, name, into, quantized=quantized, rank=rank, rate=rate, seed=seed, device=device, patience=patience,
        start=start, say=say,
    )  # fmt: skip
    import torch

    model, tokenizer = work.model, work.tokenizer
    encoded = [e for chat in chats if (e := encode(tokenizer, chat, work.longest)) is not None]
    learned, kept = work.divided(encoded, len(chats), data, held_out, seed)
    batches, checks = work.planned(learned, kept, epochs, batch_tokens, seed)
    optimizer = torch.optim.AdamW(work.trained, lr=rate, weight_decay=0.0)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    half = torch.autocast(work.where.type, torch.bfloat16, enabled=work.half)
    every = math.ceil(len(batches) / EVALUATIONS)
    loss, steps = math.inf, 0
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * share_of_rate(step, len(batches))
        with half:
            total, count = losses(model, batch, pad)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(work.trained, 1.0)
        optimizer.step()
        loss, steps = total.item() / count, step + 1
        show(steps, len(batches), loss)
        if steps % every and steps < len(batches):
            continue
        if not checks:
            say(f"step {steps} of {len(batches)} loss {loss:.4f}")
            continue
        with half:
            held_out_loss = mean_loss(model, checks, pad)
        say(f"step {steps} of {len(batches)} loss {loss:.4f}, held out {held_out_loss:.4f}")
        if work.ends(held_out_loss):
            break
    facts = {"method": "sft", "chats": len(learned), "steps": steps, "loss": loss}
    if checks:
        facts |= {"held_out_chats": len(kept), "held_out_loss": work.lowest}
    return work.place(loss, facts, checked=bool(checks))


def batched(encoded: list[Encoded], order: Any, most: int) -> list[list[Encoded]]:
    """The chats in batches of near-equal length and at most so many tokens, in a new order each time."""
    import torch

    shuffled = [encoded[i] for i in torch.randperm(len(encoded), generator=order).tolist()]
    shuffled.sort(key=lambda item: len(item[0]) // 32)
    found: list[list[Encoded]] = [[]]
    for item in shuffled:
        if found[-1] and (len(found[-1]) + 1) * max(len(item[0]), *(len(i) for i, _ in found[-1])) > most:
            found.append([])
        found[-1].append(item)
    return [found[i] for i in torch.randperm(len(found), generator=order).tolist()]
