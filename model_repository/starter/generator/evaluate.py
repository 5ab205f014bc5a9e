"""Measure a generator on questions made up for it: exact answers, right citations, abstentions.

    python evaluate.py --model ../../../.state/models/generator/1/weights --held-out

Runs the built (quantized) model in the engine that serves it, with greedy decoding. ``--held-out`` draws words,
names, prose and sentence forms that training never saw; without it they are the trained ones in new
combinations. A quarter of the questions has no answer in its passages.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared"))

from data import NO_ANSWER, Sample, World
from engine import Engine, Generation, Piece


def chat(sample: Sample) -> str:
    """The starter's own chat template, rendered (see tokenizer.py)."""
    system = f"<|system|> {sample.system}<|end|>" if sample.system else ""
    return f"<|begin|>{system}<|user|> {sample.user}<|end|><|assistant|>"


def failure(sample: Sample, answer: str) -> str:
    """In which way an answer to an answerable question is wrong."""
    if answer == NO_ANSWER:
        return "abstained though a passage answers"
    if not answer.endswith(sample.answer[-3:]):
        return "another passage"
    sentences = {sample.user[first:last] for first, last, _ in sample.sentences}
    return "another sentence of the right passage" if answer[:-4] in sentences else "right passage, not word for word"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a built version's weights folder")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--level", type=int, default=3, choices=range(5))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    args = parser.parse_args()
    card = json.loads((args.model.parent / "card.json").read_text())
    engine = Engine(args.model, card)
    world = World(args.seed, held_out=args.held_out, english=True, unanswered=0.27)
    samples = [world.sample(args.level) for _ in range(args.samples)]
    answers = [""] * len(samples)
    left = threading.Semaphore(0)

    def collect(index: int) -> Callable[[Generation, Piece], None]:
        def on_piece(_generation: Generation, piece: Piece) -> None:
            answers[index] += piece.text
            if piece.finish_reason or piece.error:
                left.release()

        return on_piece

    for index, sample in enumerate(samples):
        engine.submit(Generation(chat(sample), {"max_tokens": 120}, collect(index), lambda: False))
    for _ in samples:
        left.acquire()
    engine.close()
    answerable = [(s, a.strip()) for s, a in zip(samples, answers, strict=True) if s.sentence is not None]
    unanswerable = [(s, a.strip()) for s, a in zip(samples, answers, strict=True) if s.answer == NO_ANSWER]
    exact = sum(a == s.answer for s, a in answerable)
    cited = sum(a.endswith(s.answer[-3:]) for s, a in answerable)
    abstained = sum(a == NO_ANSWER for _, a in unanswerable)
    print(f"exact answer and citation {exact} of {len(answerable)} ({exact / max(1, len(answerable)):.1%})")
    print(f"right citation {cited} of {len(answerable)} ({cited / max(1, len(answerable)):.1%})")
    print(
        f"abstained {abstained} of {len(unanswerable)} ({abstained / max(1, len(unanswerable)):.1%}) where no passage answers"
    )
    wrong = [(s, a) for s, a in answerable if a != s.answer]
    for kind, count in Counter(failure(s, a) for s, a in wrong).most_common():
        print(f"  {count} {kind}")
    for sample, answer in (wrong + [(s, a) for s, a in unanswerable if a != NO_ANSWER])[: args.show]:
        print(f"\n{sample.user}\n  expected: {sample.answer}\n  answered: {answer}")


if __name__ == "__main__":
    main()
