"""Train the starter generator: a small Llama that answers from numbered passages and cites them.

Two losses: next-token cross-entropy on the answer, and, since the data says where each answer token
comes from, a cross-entropy on a few attention heads that teaches them to look there (previous
token, same word in the question, the passage's number, the token to copy next). Without the second
loss copying takes hours to appear on two cores; with it, minutes.

    python train.py --out weights --minutes 60 --threads 2
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from data import SYSTEM, Sample, World
from tokenizer import train_tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 2048
# Supervised heads: name -> (layer, head).
HEADS: dict[str, tuple[int, int]] = {
    "previous": (0, 0),  # each token -> the one before
    "before_previous": (0, 1),
    "third_previous": (0, 2),
    "in_question": (0, 3),  # a passage's token -> the same token in the first question, else the start
    "number": (1, 0),  # a passage's token -> its passage's number
    "sentence_start": (1, 1),  # a sentence's token -> its first
    "chosen": (3, 0),  # the answer's start and each of its tokens -> the last token of the sentence that answers
    "next": (4, 0),  # an answer's token -> the source of the token to come
    "aligned": (4, 1),  # an answer's token -> its own source
    "cited": (5, 0),  # the citation's bracket -> the passage's number
}
# One head passes 32 numbers on, too few to tell 4,096 tokens apart: these look to the next token as well.
COPY_HEADS = (2, 3, 4, 5, 6, 7)


@dataclass
class Encoded:
    """Token ids, where the answer starts, and ``(head, from, to)`` for the supervised heads."""

    ids: list[int]
    answer_start: int
    links: list[tuple[str, int, int]]
    # The last token of each sentence, and which of them ends the sentence that answers (None: none does).
    ends: list[int]
    chosen: int | None


def encode(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    core = tokenizer.backend_tokenizer
    special = {
        name: core.token_to_id(name) for name in ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
    }
    ids = [special["<|begin|>"]]
    if sample.system is not None:
        ids += [special["<|system|>"], *core.encode(" " + sample.system).ids, special["<|end|>"]]
    ids.append(special["<|user|>"])
    user = core.encode(" " + sample.user)
    base = len(ids)
    ids += [*user.ids, special["<|end|>"], special["<|assistant|>"]]
    start = len(ids)
    answer = core.encode(" " + sample.answer).ids
    ids += [*answer, special["<|end|>"]]

    def tokens(span: tuple[int, int]) -> list[int]:
        # The text got a leading space, which shifts it by one; a token may begin with the space before the span.
        first, last = span[0], span[1] + 1
        return [base + i for i, (a, b) in enumerate(user.offsets) if b > first and a < last and b > a]

    links = [("previous", i, i - 1) for i in range(1, len(ids))]
    links += [("before_previous", i, i - 2) for i in range(2, len(ids))]
    links += [("third_previous", i, i - 3) for i in range(3, len(ids))]
    asked: dict[int, int] = {}
    if len(sample.questions) == 2:
        asked = {ids[i]: i for i in tokens(sample.questions[0])}
    source: list[int] = []
    ends: list[int] = []
    chosen = None
    for first, last, marker in sample.sentences:
        span = tokens((first, last))
        number = tokens(marker)[-1]
        if (first, last) == sample.sentence:
            source = span
            source_number = number
            chosen = len(ends)
        links += [("number", i, number) for i in span]
        links += [("sentence_start", i, span[0]) for i in span]
        ends.append(span[-1])
        if asked:
            links += [("in_question", i, asked.get(ids[i], 0)) for i in span]
    if source:
        copied = len(source)
        assert answer[:copied] == [ids[i] for i in source], sample
        links += [("chosen", i, source[-1]) for i in range(start - 1, start + copied)]
        links += [("next", start - 1 + i, source[i]) for i in range(copied)]
        links += [("aligned", start + i, source[i]) for i in range(copied)]
        links.append(("aligned", start + copied, source[-1]))  # " [" still looks at the sentence's end
        links.append(("cited", start + copied, source_number))
    return Encoded(ids, start, links, ends, chosen)


class Batches:
    """Batches of near-equal length from a pool of fresh samples."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, tokens: int) -> None:
        self.world, self.tokenizer, self.tokens = world, tokenizer, tokens
        self.pool: list[Encoded] = []

    def next(self, level: int) -> list[Encoded]:
        while len(self.pool) < 256:
            self.pool.append(encode(self.world.sample(level), self.tokenizer))
        pivot = len(self.world.rng.choice(self.pool).ids)
        self.pool.sort(key=lambda e: abs(len(e.ids) - pivot))
        take, longest = 0, 0
        while take < len(self.pool):
            longest = max(longest, len(self.pool[take].ids))
            if (take + 1) * longest > self.tokens and take:
                break
            take += 1
        batch, self.pool = self.pool[:take], self.pool[take:]
        return batch


def losses(
    model: LlamaForCausalLM, probe: torch.nn.Linear, batch: list[Encoded], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Answer, attention and choice loss of a batch (means), and the share of answer tokens predicted right.

    ``probe`` reads, from each sentence's last token before the layer that chooses, whether it answers.
    """
    longest = max(len(e.ids) for e in batch)
    ids = torch.full((len(batch), longest), pad)
    for row, e in enumerate(batch):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.model(ids, output_attentions=True, output_hidden_states=True)
    rows = torch.tensor([r for r, e in enumerate(batch) for _ in range(len(e.ids) - e.answer_start)])
    cols = torch.tensor([i for e in batch for i in range(e.answer_start - 1, len(e.ids) - 1)])
    logits = model.lm_head(out.last_hidden_state[rows, cols].float())
    target = ids[rows, cols + 1]
    attention = torch.zeros(())
    for name, (layer, head) in HEADS.items():
        found = [(r, i, j) for r, e in enumerate(batch) for kind, i, j in e.links if kind == name]
        if found:
            r, i, j = torch.tensor(found).unbind(1)
            for one in (head, *COPY_HEADS) if name == "next" else (head,):
                weight = out.attentions[layer][r, one, i, j].float()
                attention = attention - (weight + 1e-4).log().mean()
    hidden = out.hidden_states[HEADS["chosen"][0]].float()
    scores = probe(functional.rms_norm(hidden, hidden.shape[-1:])).squeeze(-1)
    choices = [
        functional.cross_entropy(scores[r, e.ends][None], torch.tensor([e.chosen]))
        for r, e in enumerate(batch)
        if e.chosen is not None and len(e.ends) > 1
    ]
    choice = torch.stack(choices).mean() if choices else torch.zeros(())
    right = (logits.argmax(-1) == target).float().mean().item()
    return functional.cross_entropy(logits, target), attention / (len(HEADS) + len(COPY_HEADS)), choice, right


def level_at(progress: float) -> int:
    """The curriculum: one sentence first, then more and longer passages."""
    return 0 if progress < 0.06 else 1 if progress < 0.14 else 2 if progress < 0.4 else 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from a trained folder, at the last level of the curriculum")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    begin = args.start is not None
    tokenizer = (
        PreTrainedTokenizerFast.from_pretrained(args.start)
        if begin
        else train_tokenizer(World(args.seed).corpus(6000), args.vocabulary, CONTEXT)
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=640, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.04, attn_implementation="eager",
    )  # fmt: skip
    model = (
        LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32, attn_implementation="eager")
        if begin
        else LlamaForCausalLM(config)
    )
    probe = torch.nn.Linear(config.hidden_size, 1)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, system prompt {len(tokenizer(SYSTEM).input_ids)} tokens"
    )
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *probe.parameters()], lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    batches = Batches(World(args.seed + 1), tokenizer, args.tokens)
    begun, step, seen, shown, level = time.monotonic(), 0, 0, 0.0, -1
    while (progress := (time.monotonic() - begun) / 60 / args.minutes) < 1:
        if level != (wanted := 3 if begin else level_at(progress)):
            level = wanted
            batches.pool.clear()
            tokenizer.save_pretrained(args.out)
            model.save_pretrained(args.out)
        rate = args.rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batches.next(level)
        answer, attention, choice, right = losses(model, probe, batch, tokenizer.pad_token_id)
        optimizer.zero_grad()
        (answer + attention + 0.5 * choice).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += sum(len(e.ids) for e in batch)
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(
                f"{progress:6.1%} level {level} step {step} tokens {seen:,} loss {answer.item():.3f} "
                f"attention {attention.item():.3f} choice {choice.item():.3f} right {right:.1%}",
                flush=True,
            )
    model.config.attn_implementation = "sdpa"
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
