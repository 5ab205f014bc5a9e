"""Quality of a ranking against graded relevance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ndcg_at_10(scores: Sequence[float] | np.ndarray, grades: Sequence[float] | np.ndarray) -> float:
    """Normalised discounted cumulative gain of the first ten by score, 0 to 1 (Järvelin & Kekäläinen 2002).

    ``scores`` and ``grades`` are one a candidate, same order; a grade is 0 or more, and at least one is
    above 0. The gain is the grade, the discount log2(1 + rank). Of equal scores the order given counts.
    The ideal order is that of all candidates given, so a relevant one that was left out does not cost.
    """
    scores, grades = np.asarray(scores, np.float64), np.asarray(grades, np.float64)
    if scores.shape != grades.shape or not (grades > 0).any():
        raise ValueError("scores and grades are one a candidate, and at least one grade is above 0")
    discounts = 1 / np.log2(np.arange(2, 12))
    found = grades[np.argsort(-scores, kind="stable")][:10]
    ideal = np.sort(grades)[::-1][:10]
    return float((found * discounts[: len(found)]).sum() / (ideal * discounts[: len(ideal)]).sum())
