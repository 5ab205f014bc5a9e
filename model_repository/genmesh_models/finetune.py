"""LoRA adapters (Hu et al. 2021), and QLoRA's (Dettmers et al. 2023): a frozen base in 4 bits, an adapter in 16.

The data is a JSONL of chats, ``{"messages": [{"role": ..., "content": ...}, ...]}`` a line, laid out by
the base's own chat template. The loss counts the tokens of each chat's last message only.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genmesh_models import lora, sources
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError

ROLES = ("system", "user", "assistant")
LEAST_STEPS = 100
TOKENS = 1024  # tokens in a batch, padding included: small data sets need many steps more than large batches
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
    if not path.is_file():
        raise BuildError(f"there is no file {path}")
    chats = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other ends of lines may be inside of a chat
    except UnicodeDecodeError as failure:
        raise BuildError(f"{path} is not UTF-8: {failure.reason} at byte {failure.start}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
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


def encode(tokenizer: Any, chat: list[dict[str, str]], longest: int) -> tuple[list[int], int] | None:
    """Token ids, and where the answer begins; None where the chat is longer than the context."""
    from transformers import BatchEncoding

    options: dict[str, Any] = {} if tokenizer.chat_template else {"chat_template": PLAIN_TEMPLATE}

    def ids(messages: list[dict[str, str]], *, ask: bool) -> list[int]:
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, tokenize=True, **options)
        return list(found["input_ids"] if isinstance(found, BatchEncoding) else found)

    prompt, whole = ids(chat[:-1], ask=True), ids(chat, ask=False)
    if whole[-1] != tokenizer.eos_token_id:
        whole.append(tokenizer.eos_token_id)
    if len(whole) > longest:
        return None
    # Where the template's prompt is not the beginning of the whole, from the first difference on.
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return whole, start


def finetune(
    entry: Entry, name: str, data: Path, into: Path, *, quantized: bool, rank: int, epochs: int | None, rate: float,
    seed: int, say: Callable[[str], None], show: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Path:  # fmt: skip
    """Train an adapter for a generator and put it beside its versions; the adapter's folder. Without ``epochs`` for
    LEAST_STEPS steps, and at least three times over the data: a few chats are a step or two an epoch, which teaches nothing.

    ``say``: a line now and then; ``show``: each step, of how many, and its loss.
    """
    card, plain, sums = lora.base_of(entry, name, into)
    chats = read_chats(data)
    staged = lora.staging(entry, name, into)
    # What is served is the checkpoint with the catalogue's own adapter in it.
    base = sources.merged(entry, plain, staged.with_name(f"{staged.name}-base"))
    import torch
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    options: dict[str, Any] = {"dtype": torch.float32}
    if quantized:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    kind = model.config.model_type
    adapter_dtype = torch.bfloat16 if quantized else torch.float32
    model = get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
            target_modules=TARGETS.get(kind, TARGETS[""]), fan_in_fan_out=kind == "gpt2",
        ),
        autocast_adapter_dtype=False,
    )  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(adapter_dtype)
    longest = card["context_tokens"]
    encoded = [e for chat in chats if (e := encode(tokenizer, chat, longest)) is not None]
    if not encoded:
        raise BuildError(f"{data}: no chat fits into the context of {longest} tokens")
    if len(encoded) < len(chats):
        say(f"{len(chats) - len(encoded)} of {len(chats)} chats are longer than the context and are left out")
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    order = torch.Generator().manual_seed(seed)
    once = batched(encoded, order)
    epochs = epochs or max(3, math.ceil(LEAST_STEPS / len(once)))
    batches = once + [b for _ in range(epochs - 1) for b in batched(encoded, order)]
    parameters = sum(p.numel() for p in trained)
    say(f"{parameters:,} parameters to train on {len(encoded)} chats, {epochs} epochs of {len(once)} steps")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    model.train()
    for step, batch in enumerate(batches):
        share = step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * share))
        width = max(len(ids) for ids, _ in batch)
        tokens = torch.full((len(batch), width), pad)
        labels = torch.full((len(batch), width), -100)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, (ids, start) in enumerate(batch):
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, start : len(ids)] = torch.tensor(ids[start:])
            mask[row, : len(ids)] = 1
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        show(step + 1, len(batches), loss.item())
        if step % max(1, len(batches) // 20) == 0 or step == len(batches) - 1:
            say(f"step {step + 1} of {len(batches)} loss {loss.item():.4f}")
    if not all(bool(p.isfinite().all()) for p in trained):
        raise BuildError(f"training {name} went astray (loss {loss.item()}); try a lower --rate than {rate:g}")
    model.peft_config["default"].base_model_name_or_path = entry.source
    model.save_pretrained(str(staged))
    shutil.rmtree(staged.with_name(f"{staged.name}-base"), ignore_errors=True)
    facts = {"name": name, "rank": rank, "quantized_base": quantized, "chats": len(encoded), "loss": loss.item()}
    return lora.place(staged, into, card, facts | {"base_sha256": sums})


def batched(encoded: list[tuple[list[int], int]], order: Any) -> list[list[tuple[list[int], int]]]:
    """The chats in batches of near-equal length, in a new order each time."""
    import torch

    shuffled = [encoded[i] for i in torch.randperm(len(encoded), generator=order).tolist()]
    shuffled.sort(key=lambda item: len(item[0]) // 32)
    found: list[list[tuple[list[int], int]]] = [[]]
    for item in shuffled:
        if found[-1] and (len(found[-1]) + 1) * max(len(item[0]), *(len(i) for i, _ in found[-1])) > TOKENS:
            found.append([])
        found[-1].append(item)
    return [found[i] for i in torch.randperm(len(found), generator=order).tolist()]
