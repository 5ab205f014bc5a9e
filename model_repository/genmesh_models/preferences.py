"""LoRA adapters from preferences: direct preference optimization (DPO, Rafailov et al. 2023), by TRL's DPOTrainer.

The data is a JSONL of pairs, ``{"prompt": ..., "chosen": ..., "rejected": ...}`` a line, TRL's conversational format: the prompt
is a list of messages ``{"role", "content"}`` whose last is the user's, each reply a list of one message of the assistant. A
string in place of a list stands for one message. Prompts and replies are laid out and end as chats do (finetune.encode).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from genmesh_models import finetune
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError

BETA = 0.1


class Pair(NamedTuple):
    """A prompt's messages, the reply that is preferred, and the one that is not."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSONL file; BuildError names the line at fault, and what is wrong with it."""
    pairs = []
    for number, line in finetune.lines_of(path):
        try:
            pairs.append(pair_of(json.loads(line)))
        except ValueError as failure:  # JSON's own, too
            raise BuildError(
                f'{path}: line {number} is not {{"prompt": ..., "chosen": ..., "rejected": ...}}: {failure}'
            ) from None
    if not pairs:
        raise BuildError(f"{path} holds no pair")
    return pairs


def pair_of(facts: Any) -> Pair:
    """What a line says; ValueError where it is no pair."""
    if not isinstance(facts, dict):
        raise ValueError("it is no object")
    if missing := [key for key in Pair._fields if key not in facts]:
        raise ValueError(f"it has no {missing[0]}")
    prompt = messages(facts["prompt"], "user")
    if not prompt or prompt[-1]["role"] != "user":
        raise ValueError("prompt is neither a string nor a list of messages that ends with the user's")
    replies = []
    for key in ("chosen", "rejected"):
        found = messages(facts[key], "assistant")
        if [message["role"] for message in found] != ["assistant"]:
            raise ValueError(f"{key} is neither a string nor a list of one message of the assistant")
        replies.append(found[0]["content"])
    if replies[0] == replies[1]:
        raise ValueError("chosen and rejected are the same")
    return Pair(prompt, *replies)


def messages(value: Any, role: str) -> list[dict[str, str]]:
    """Messages with nothing but role and content; a string is one of this role. Empty where it is something else."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    try:
        good = all(m["role"] in finetune.ROLES and isinstance(m["content"], str) for m in value)
    except (KeyError, TypeError):
        good = False
    return [{"role": m["role"], "content": m["content"]} for m in value] if good else []


def encode(tokenizer: Any, pair: Pair, longest: int) -> dict[str, list[int]] | None:
    """Token ids of the prompt and of what each reply adds to it, as DPOTrainer takes them; None where the prompt with a reply
    is longer than ``longest`` tokens."""
    both = [
        finetune.encode(tokenizer, [*pair.prompt, {"role": "assistant", "content": reply}], longest)
        for reply in (pair.chosen, pair.rejected)
    ]
    if both[0] is None or both[1] is None:
        return None
    (chosen, one), (rejected, other) = both
    begin = min(one, other)  # where templates lay out a prompt by its answer, from the first difference on
    return {"prompt_ids": chosen[:begin], "chosen_ids": chosen[begin:], "rejected_ids": rejected[begin:]}


def prefer(
    entry: Entry, name: str, data: Path, into: Path, *, quantized: bool, rank: int, epochs: int | None, rate: float,
    seed: int, say: Callable[[str], None], show: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    device: str = "cpu", held_out: float | None = None, patience: int = 4, batch_tokens: int = finetune.TOKENS,
    start: Path | None = None, beta: float = BETA,
) -> Path:  # fmt: skip
    """Train an adapter on pairs and put it beside its generator's versions; the adapter's folder. BuildError says why not.

    The reference is the model as training found it: what is served without an adapter, or with ``start`` that adapter on it
    (DPOTrainer keeps a frozen copy of it). ``beta``: how much is paid for leaving the reference; the greater, the less it does.
    ``batch_tokens``: of a step's prompts with both replies, padding included. The rest is as in ``finetune.finetune``: held-out
    pairs are evaluated EVALUATIONS times, the adapter with the lowest mean loss on them is kept, and training ends after
    ``patience`` evaluations without a lower one.

    adapter.json tells that loss, and the accuracy there: the share of the held-out pairs whose chosen reply has the higher
    implicit reward, that is, gained more log-probability on the reference than the rejected one.
    """
    pairs = read_pairs(data)
    check_device(device)
    work = finetune.begun(
        entry, name, into, quantized=quantized, rank=rank, rate=rate, seed=seed, device=device, patience=patience,
        start=start, say=say,
    )  # fmt: skip
    encoded = [e for pair in pairs if (e := encode(work.tokenizer, pair, work.longest)) is not None]
    learned, kept = work.divided(encoded, len(pairs), data, held_out, seed, "pair")
    # A pair has two rows as long as its longer one.
    steps, checks = work.planned(rows(learned), rows(kept), epochs, batch_tokens // 2, seed, "pair")
    from genmesh_models import dpo

    trainer = dpo.trainer_of(
        work, learned, kept, indices(steps), indices(checks), every=math.ceil(len(steps) / finetune.EVALUATIONS),
        beta=beta, seed=seed, show=show,
    )  # fmt: skip
    trainer.train()
    facts = {
        "method": "dpo",
        "beta": beta,
        "pairs": len(learned),
        "steps": trainer.state.global_step,
        "loss": trainer.loss,
    }
    if checks:
        facts |= {"held_out_pairs": len(kept), "held_out_loss": work.lowest, "held_out_accuracy": trainer.accuracy}
    return work.place(trainer.loss, facts, checked=bool(checks))


def check_device(name: str) -> None:
    """BuildError where there is no such device, or where transformers' Trainer would take another or more than one."""
    where = finetune.device_of(name)
    if where.type == "cuda":
        import torch

        if where.index not in (None, 0) or torch.cuda.device_count() > 1:
            raise BuildError(
                f"--device {name}: dpo trains on the one GPU that it sees; choose it with CUDA_VISIBLE_DEVICES=NUMBER and --device cuda"
            )


def rows(pairs: list[dict[str, list[int]]]) -> list[finetune.Encoded]:
    """The longer row of each pair, and the pair's index."""
    return [
        (pair["prompt_ids"] + max(pair["chosen_ids"], pair["rejected_ids"], key=len), i) for i, pair in enumerate(pairs)
    ]


def indices(batches: list[list[finetune.Encoded]]) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]
