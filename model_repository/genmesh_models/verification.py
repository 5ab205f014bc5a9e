"""What quantization cost: a built model against the full-precision one, on text and pictures of neither's training.

Each figure has a value and a bound; the catalogue's ``verify`` may set other bounds. A build whose
figure breaks its bound fails, and says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from genmesh_models.texts import retrieval_set

from ranking import ndcg_at_10

# name: (bound, whether the value must be at least that rather than at most)
DEFAULTS = {
    # Mean and least cosine between the vectors of the two networks.
    "cosine_mean": (0.99, True),
    "cosine_min": (0.85, True),
    # Greatest difference of a cross-encoder's score, which is 0 to 1.
    "score_difference_max": (0.15, False),
    # nDCG@10 on retrieval.jsonl: at most this much less than full precision's.
    "ndcg_at_10": (0.02, True),
    # Share of positions at which both networks hold the same token for the likeliest.
    "top1_agreement": (0.85, True),
    # exp(mean negative log-likelihood) of the built network over that of the full-precision one.
    "perplexity_ratio": (1.05, False),
    # Of pictures drawn from the same noise: peak signal-to-noise ratio in dB, and structural similarity.
    "psnr_db": (20.0, True),
    "ssim": (0.8, True),
    # An upscaler's PSNR less that of bicubic interpolation, dB, and its sharpness over bicubic's, against the truth.
    "psnr_over_bicubic_db": (-1.0, True),
    "sharpness_over_bicubic": (1.0, True),
    # Share of a starter's own prompts whose picture shows what they ask for.
    "prompt_accuracy": (0.85, True),
}
Figure = dict[str, Any]


def figure(name: str, value: float, reference: float = 0.0) -> Figure:
    """``reference`` is the same measured at full precision, where that says something."""
    return {"name": name, "value": float(value), "reference": float(reference)}


def vectors(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of pairs of unit vectors, or of one row a token."""
    cosines = np.concatenate([np.atleast_1d((a * b).sum(-1)) for a, b in pairs])
    return [figure("cosine_mean", cosines.mean()), figure("cosine_min", cosines.min())]


def scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of pairs of arrays of scores."""
    return [figure("score_difference_max", max(np.abs(a - b).max() for a, b in pairs))]


def ranking(score: Callable[[str, Sequence[str]], Sequence[float]], candidates: int | None) -> float:
    """Mean nDCG@10 over the retrieval set; ``candidates``: how many passages a query ranks, all where None."""
    found = retrieval_set()
    values = []
    for query, relevant in found.queries:
        names = list(found.passages) if candidates is None else found.candidates(query, relevant, candidates)
        given = score(query, [found.passages[name] for name in names])
        values.append(ndcg_at_10(np.asarray(given), np.array([relevant.get(name, 0) for name in names])))
    return float(np.mean(values))


def predictions(pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of (our logits, the full-precision logits, the tokens that follow), each row one position."""
    agreed: list[np.ndarray] = []
    losses: tuple[list[float], list[float]] = ([], [])
    for ours, theirs, following in pairs:
        agreed.append(ours.argmax(-1) == theirs.argmax(-1))
        for logits, found in zip((ours, theirs), losses, strict=True):
            logits = logits.astype(np.float64)
            shifted = logits - logits.max(-1, keepdims=True)
            likelihood = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            found.extend(-np.take_along_axis(likelihood, following[:, None], -1)[:, 0])
    ours_loss, theirs_loss = (float(np.mean(found)) for found in losses)
    return [
        figure("top1_agreement", np.concatenate(agreed).mean()),
        figure("perplexity_ratio", math.exp(ours_loss - theirs_loss), math.exp(min(theirs_loss, 100))),
    ]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, dB: 10 log10(255^2 / mean squared error); at most 100."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * math.log10(255**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two uint8 RGB pictures' luma (Wang et al. 2004), 8 x 8 windows, stride 4."""
    weights = np.array([0.299, 0.587, 0.114])
    x, y = (np.lib.stride_tricks.sliding_window_view(p.astype(np.float64) @ weights, (8, 8))[::4, ::4] for p in (a, b))
    axes = (-2, -1)
    mean_x, mean_y = x.mean(axes), y.mean(axes)
    covariance = (x * y).mean(axes) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (x.var(axes) + y.var(axes) + c2)
    )
    return float(similarity.mean())


def pictures(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of pairs of uint8 pictures, height x width x RGB."""
    return [
        figure("psnr_db", np.mean([psnr(a, b) for a, b in pairs])),
        figure("ssim", np.mean([ssim(a, b) for a, b in pairs])),
    ]


def held(found: Figure, bounds: Mapping[str, float]) -> Figure:
    """The figure with its bound; an nDCG's is below full precision's."""
    bound, least = DEFAULTS[found["name"]]
    bound = bounds.get(found["name"], bound)
    if found["name"] == "ndcg_at_10":
        bound = found["reference"] - bound
    return found | {"bound": bound, "at_least": least}


def passes(found: Figure) -> bool:
    value, bound = found["value"], found["bound"]
    return bool(value >= bound if found["at_least"] else value <= bound)


def sentence(found: Figure) -> str:
    """What is wrong, and by how much."""
    side = "least" if found["at_least"] else "most"
    return (
        f"verification failed: {found['name']} is {found['value']:.4f}, must be at {side} {found['bound']:g} "
        f"({abs(found['value'] - found['bound']):.4f} off)"
    )
