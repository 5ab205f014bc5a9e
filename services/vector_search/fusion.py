"""One list of two: the hits of vectors and the hits of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_K = 60
# Of each search so many hits take part at least.
LEAST_DEPTH = 50


def depth(limit: int) -> int:
    return max(LEAST_DEPTH, limit)


@dataclass(frozen=True)
class Lists:
    """The ids that two searches found, best first, and the scores of all of them in both, as far as they have one."""

    by_vector: Sequence[str]
    by_word: Sequence[str]
    dense: Mapping[str, float]
    bm25: Mapping[str, float]
    metric: str  # of the vectors, Milvus' name


Fuse = Callable[[Lists], dict[str, float]]  # to fused scores


@dataclass(frozen=True)
class Hit:
    id: str
    score: float
    dense: float | None = None
    bm25: float | None = None
    entity: Mapping[str, Any] = field(default_factory=dict)  # of its row; empty where it is still to be read


def reciprocal_rank(k: int) -> Fuse:
    """1 / (k + rank) of each list that has a hit, ranks from 1, summed (Cormack, Clarke, Buettcher 2009)."""

    def fuse(lists: Lists) -> dict[str, float]:
        total: dict[str, float] = {}
        for found in (lists.by_vector, lists.by_word):
            for rank, one in enumerate(found, 1):
                total[one] = total.get(one, 0.0) + 1 / (k + rank)
        return total

    return fuse


def weighted(dense: float, bm25: float) -> Fuse:
    """Scores from 0, the least that their kind can be, to 1, the query's greatest; summed by weights (Bruch, Gai, Ingber
    2022: "An Analysis of Fusion Functions for Hybrid Retrieval"). A hit of one search has its own score in the other: taken
    for the least there it would lose to each hit of both."""

    def fuse(lists: Lists) -> dict[str, float]:
        total: dict[str, float] = {}
        for weight, scores in (
            (dense, _scaled(lists.dense, lists.metric)),
            (bm25, _scaled(lists.bm25, "BM25")),
        ):
            for one, score in scores.items():
                total[one] = total.get(one, 0.0) + weight * score
        return total

    return fuse


def _scaled(scores: Mapping[str, float], metric: str) -> Mapping[str, float]:
    if not scores:
        return scores
    if metric == "L2":  # a distance
        scores = {one: 1 / (1 + max(0.0, score)) for one, score in scores.items()}
    least = {"COSINE": -1.0, "IP": min(scores.values())}.get(metric, 0.0)
    span = max(scores.values()) - least
    return {one: (score - least) / span if span > 0 else 1.0 for one, score in scores.items()}


def fused(fuse: Fuse, lists: Lists, limit: int) -> list[Hit]:
    """The best, greatest score first; by id where scores are equal."""
    total = fuse(lists)
    best = sorted(total, key=lambda one: (-total[one], one))[:limit]
    return [Hit(one, total[one], lists.dense.get(one), lists.bm25.get(one)) for one in best]
