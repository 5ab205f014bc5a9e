"""Measure the reranker: nDCG@10 of the corrected scores and of late interaction, on the same candidates.

    python evaluate.py --weights weights
    python evaluate.py --model ../../../.state/models/reranker/1    (a built version, as it is served)

Two sets: tasks made up from words, names, forms and paragraphs that training never saw, and the
retrieval set written by hand (``retrieval.jsonl``), where each query's candidates are the 15 passages
nearest by embedding and whatever else has a grade.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from data import Task, held_out_tasks  # noqa: E402
from network import LateInteraction, base_folder, load, mixed, read_mix  # noqa: E402
from ranking import ndcg_at_10  # noqa: E402

RETRIEVAL = HERE.parents[1] / "retrieval.jsonl"
Scorer = Callable[[str, Sequence[str]], np.ndarray]


def mean_ndcg(tasks: Sequence[Task], score: Scorer) -> float:
    return float(np.mean([ndcg_at_10(score(t.query, t.passages), t.grades) for t in tasks]))


def retrieval_tasks(baseline: LateInteraction, file: Path = RETRIEVAL, nearest: int = 15) -> list[Task]:
    """The hand-written set with the candidates that an embedder (mean of the token vectors) brings up."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    passages = {line["passage"]: line["text"] for line in lines if "passage" in line}
    names = list(passages)

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = np.stack([v.mean(0).numpy() for v in baseline.vectors(texts)])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    index = embed(list(passages.values()))
    tasks = []
    for line in lines:
        if "query" in line:
            near = np.argsort(-(index @ embed([line["text"]])[0]), kind="stable")[:nearest]
            chosen = list(dict.fromkeys([*(names[i] for i in near), *line["relevant"]]))
            grades = [line["relevant"].get(name, 0) for name in chosen]
            tasks.append(Task(line["text"], [passages[name] for name in chosen], grades))
    return tasks


def served(version: Path) -> tuple[Scorer, Scorer]:
    """The scores of a built version, and its late interaction alone."""
    sys.path.insert(0, str(version))
    from encoder import Encoder
    from ranker import Ranker

    card = json.loads((version / "card.json").read_text())
    encoder = Encoder(version / "weights", card)
    corrected = Ranker(card, encoder, Encoder(version / "weights" / "corrector", card))
    late = Ranker(card | {"scoring": "late-interaction"}, encoder)
    ours, baseline = (
        lambda query, passages, ranker=ranker: ranker.score([(query, passage) for passage in passages])
        for ranker in (corrected, late)
    )
    return ours, baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="the adapter's folder")
    parser.add_argument("--model", type=Path, help="a built version's folder, in place of the adapter")
    parser.add_argument("--queries", type=int, default=200, help="of the held-out set")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    baseline = LateInteraction(base_folder())
    if args.model:
        ours, plain = served(args.model)
    else:
        model, tokenizer = load(base_folder(), args.weights)
        ours, plain = partial(mixed, model, tokenizer, baseline, read_mix(args.weights)), baseline.scores

    sets = {"held-out": held_out_tasks(args.queries)}
    if RETRIEVAL.is_file():
        sets["retrieval.jsonl"] = retrieval_tasks(baseline)
    for name, tasks in sets.items():
        print(
            f"{name}: {len(tasks)} queries, nDCG@10 corrected {mean_ndcg(tasks, ours):.4f}, "
            f"late interaction {mean_ndcg(tasks, plain):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
