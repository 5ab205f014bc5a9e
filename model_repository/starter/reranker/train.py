"""Train the starter reranker: MiniLM reads query and passage as one text and scores the pair.

    python train.py --out weights --minutes 45 --threads 1

The loss is a softmax cross-entropy over each query's candidates (ListNet's top-one form, Cao et al.
2007) and a little binary cross-entropy, which gives the score a meaning of its own: the probability
that the passage answers. For prose and written questions, where others than the one passage may be
good as well, a part of the target is what MiniLM's own vectors hold of the candidates: late interaction
plus the cosine of their means (distillation, Hinton et al. 2015).

Both scores are weighed by three numbers that are learned with them (network.py).

MiniLM's token vectors say what a token means, not whether the other text has it too, and to find that
out from one label a pair takes hours on a CPU. So a probe after the third layer learns of each token
whether the other text holds the same, which the data tells for free; it is thrown away afterwards.
Only a low-rank adapter and the head are trained.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from data import Task, World, held_out_tasks
from evaluate import mean_ndcg
from network import MIX, LateInteraction, adapted, base_folder, batches, mixed, read_mix, save_adapter
from peft import PeftModel
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# The probes read the hidden states after so many layers.
SAME_AFTER, CLOSE_AFTER = 3, 5
TEACHER_TEMPERATURE = 0.1  # of a sum of two cosines, which lie close together


def loss_of(tasks: list[Task], scores: torch.Tensor, teacher: LateInteraction) -> torch.Tensor:
    """Mean over tasks; ``scores`` (all candidates in order,), before the sigmoid."""
    total, start = torch.zeros(()), 0
    for task in tasks:
        row = scores[start : start + len(task.passages)]
        start += len(task.passages)
        right = (torch.tensor(task.grades) > 0).float()
        target = right / right.sum()
        if task.soft:
            held = teacher.scores(task.query, task.passages) + teacher.embedding_scores(task.query, task.passages)
            held = torch.from_numpy(held / TEACHER_TEMPERATURE).float().softmax(0)
            target = (1 - task.soft) * target + task.soft * held
        if task.soft < 0.5:
            total = total + 0.5 * functional.binary_cross_entropy_with_logits(row, right)
        total = total - (target * row.log_softmax(0)).sum()
    return total / len(tasks)


def read(
    model: PeftModel,
    mix: torch.nn.ParameterDict,
    probes: torch.nn.ModuleList,
    tokenizer: PreTrainedTokenizerBase,
    teacher: LateInteraction,
    tasks: list[Task],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all candidates before the sigmoid, (pairs,), and the summed mean losses of the two probes."""
    pairs = [(t.query, p) for t in tasks for p in t.passages]
    taught = [bool(t.soft) for t in tasks for _ in t.passages]
    parts, order, same_losses, close_losses = [], [], [], []
    for rows, batch in batches(tokenizer, pairs, 16):
        out = model(**batch, output_hidden_states=True)
        parts.append(out.logits[:, 0])
        order += rows
        ids, kinds = batch["input_ids"], batch["token_type_ids"]
        words = (ids != tokenizer.cls_token_id) & (ids != tokenizer.sep_token_id) & batch["attention_mask"].bool()
        other = (kinds[:, :, None] != kinds[:, None, :]) & words[:, None, :]
        same = ((ids[:, :, None] == ids[:, None, :]) & other).any(-1)
        found = probes[0](out.hidden_states[SAME_AFTER])[..., 0]
        same_losses.append(functional.binary_cross_entropy_with_logits(found[words], same[words].float()))
        found = probes[1](out.hidden_states[CLOSE_AFTER])[..., 0]
        for row, i in enumerate(rows):
            asked = words[row] & (kinds[row] == 0)
            if taught[i]:
                target = teacher.closest(*pairs[i])[: int(asked.sum())].clamp(0, 1)
                close_losses.append(functional.binary_cross_entropy_with_logits(found[row][asked], target))
    late = torch.tensor(np.concatenate([teacher.scores(t.query, t.passages) for t in tasks])).float()
    scores = mix["late"] * late + mix["cross"] * torch.cat(parts)[torch.tensor(order).argsort()] + mix["bias"]
    total = torch.stack(same_losses).mean()
    return scores, total + torch.stack(close_losses).mean() if close_losses else total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="an adapter to go on from")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-4, help="the greatest learning rate")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=4, help="queries a step")
    parser.add_argument("--candidates", type=int, default=6, help="passages a query")
    parser.add_argument("--queries", type=int, default=40, help="of the held-out set, measured on the way")
    parser.add_argument("--every", type=float, default=8, help="minutes between measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    base = base_folder()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = adapted(base, args.rank)
    if args.start:
        model = PeftModel.from_pretrained(model.unload(), args.start, is_trainable=True)
    model.eval()  # no dropout: each task is seen once
    teacher = LateInteraction(base)
    held_out = held_out_tasks(args.queries)

    mix = torch.nn.ParameterDict(
        {name: torch.tensor(value) for name, value in (read_mix(args.start) if args.start else MIX).items()}
    )

    def weighed() -> dict[str, float]:
        return {name: value.item() for name, value in mix.items()}

    def measure() -> float:
        return mean_ndcg(held_out, partial(mixed, model, tokenizer, teacher, weighed()))

    print(f"late interaction: held-out nDCG@10 {mean_ndcg(held_out, teacher.scores):.4f}", flush=True)
    probes = torch.nn.ModuleList(torch.nn.Linear(model.config.hidden_size, 1) for _ in range(2))
    for probe in probes:
        torch.nn.init.zeros_(probe.weight)  # so that it does not disturb a network that goes on from an adapter
    parameters = [p for p in (*model.parameters(), *probes.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    mixing = torch.optim.Adam(mix.parameters(), lr=0.01)
    world = World(args.seed)
    begun = last = time.monotonic()
    paused = 0.0  # measuring does not count
    step, seen, recent = 0, 0, []  # type: ignore[var-annotated]
    while True:
        spent = (time.monotonic() - begun - paused) / 60
        done = spent / args.minutes
        if step % 20 == 0 and recent:
            ranking, matched = np.mean(recent[-60:], axis=0)
            print(
                f"step {step} {spent:.1f} min loss {ranking:.3f} probes {matched:.3f} pairs/s {seen / spent / 60:.1f}",
                flush=True,
            )
        if done >= 1 or time.monotonic() - last > args.every * 60:
            before = time.monotonic()
            save_adapter(model, weighed(), args.out)
            print(f"step {step} {spent:.1f} min held-out nDCG@10 {measure():.4f}", flush=True)
            last = time.monotonic()
            paused += last - before
        if done >= 1:
            break
        rate = args.rate * min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tasks = [world.task(args.candidates) for _ in range(args.tasks)]
        ranked, matching = read(model, mix, probes, tokenizer, teacher, tasks)
        loss = loss_of(tasks, ranked, teacher)
        optimizer.zero_grad(set_to_none=True)
        mixing.zero_grad(set_to_none=True)
        (loss + matching).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mixing.step()
        step, seen = step + 1, seen + len(ranked)
        recent.append((loss.item(), matching.item()))


if __name__ == "__main__":
    main()
