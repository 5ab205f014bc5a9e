"""Measure a generator on questions made up for it: exact answers, right citations, abstentions.

    python evaluate.py --model ../../../.state/models/generator/1/weights --held-out

Runs the built (quantized) model in the engine that serves it. ``--held-out`` draws words, names and
sentence forms that training never saw; without it they are the trained ones in new combinations.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared"))
import json

from data import NO_ANSWER, Sample, World
from engine import Engine, Generation, Piece


def chat(sample: Sample) -> str:
    """The starter's own chat template, rendered (see tokenizer.py)."""
    system = f"<|system|> {sample.system}<|end|>" if sample.system else ""
    return f"<|begin|>{system}<|user|> {sample.user}<|end|><|assistant|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a built version's weights folder")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--level", type=int, default=3, choices=range(4))
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    args = parser.parse_args()
    card = json.loads((args.model.parents[1] / "model.json").read_text())
    engine = Engine(args.model, card)
    world = World(7, held_out=args.held_out, english=True)
    samples = [world.sample(args.level) for _ in range(args.samples)]
    answers = [""] * len(samples)
    left = threading.Semaphore(0)

    def collect(index: int):  # type: ignore[no-untyped-def]
        def on_piece(_generation: Generation, piece: Piece) -> None:
            answers[index] += piece.text
            if piece.finish_reason or piece.error:
                left.release()

        return on_piece

    for index, sample in enumerate(samples):
        engine.submit(Generation(chat(sample), {"max_tokens": 90}, collect(index), lambda: False))
    for _ in samples:
        left.acquire()
    engine.close()
    answerable = [(s, a.strip()) for s, a in zip(samples, answers, strict=True) if s.sentence is not None]
    unanswerable = [a.strip() for s, a in zip(samples, answers, strict=True) if s.answer == NO_ANSWER]
    exact = sum(a == s.answer for s, a in answerable)
    cited = sum(a.endswith(s.answer[-3:]) for s, a in answerable)
    abstained = sum(a == NO_ANSWER for a in unanswerable)
    print(f"exact answer and citation {exact} of {len(answerable)} ({exact / len(answerable):.1%})")
    print(f"right citation {cited} of {len(answerable)} ({cited / len(answerable):.1%})")
    print(f"abstained {abstained} of {len(unanswerable)} where no passage answers")
    for sample, answer in [(s, a) for s, a in answerable if a != s.answer][: args.show]:
        print(f"\n{sample.user}\n  expected: {sample.answer}\n  answered: {answer}")


if __name__ == "__main__":
    main()
