"""What quantization cost: a built network against the full-precision one, on text that neither was trained on.

Each figure has a name and a value; the catalogue's ``verify`` may set its bound, else DEFAULTS does. A
build whose figure breaks its bound fails.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

# name: (bound, whether the value must be at least that rather than at most)
DEFAULTS = {
    # Mean and least cosine between the vectors of the two networks.
    "cosine_mean": (0.99, True),
    "cosine_min": (0.9, True),
    # Greatest difference of a cross-encoder's score, which is 0 to 1.
    "score_difference_max": (0.1, False),
    # Share of positions at which both networks hold the same token for the likeliest.
    "top1_agreement": (0.9, True),
    # exp(mean negative log-likelihood) of the built network over that of the full-precision one.
    "perplexity_ratio": (1.05, False),
}
Figure = dict[str, Any]


def held_out_texts(count: int = 48) -> list[str]:
    """Texts of 5 to 200 words, made of words and sentence forms that no recipe trains on."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "starter" / "generator"))
    from data import World

    world = World(98, held_out=True)
    samples = [world.sample(3) for _ in range(count)]
    return [sample.user if i % 2 else sample.answer for i, sample in enumerate(samples)]


def vectors(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of pairs of unit vectors, or of one row a token."""
    cosines = np.concatenate([np.atleast_1d((a * b).sum(-1)) for a, b in pairs])
    return [
        {"name": "cosine_mean", "value": float(cosines.mean())},
        {"name": "cosine_min", "value": float(cosines.min())},
    ]


def scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Of pairs of scores, 0 to 1."""
    return [{"name": "score_difference_max", "value": float(max(np.abs(a - b).max() for a, b in pairs))}]


def generator(source: Path, built: Path) -> list[Figure]:
    """Next-token predictions of the exported network against the checkpoint in float32."""
    import openvino as ov
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    compiled = ov.Core().compile_model(str(built / "openvino_model.xml"), "CPU")
    request = compiled.create_infer_request()
    names = {name for port in compiled.inputs for name in port.names}
    agreed, losses = [], ([], [])  # type: tuple[list[np.ndarray], tuple[list[float], list[float]]]
    for text in held_out_texts(24):
        ids = tokenizer(text, return_tensors="np")["input_ids"][:, : full.config.max_position_embeddings].astype(
            np.int64
        )
        given = {
            "input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None],
            "beam_idx": np.zeros(1, np.int32),
        }  # fmt: skip
        request.reset_state()
        ours = request.infer({k: v for k, v in given.items() if k in names})["logits"][0].astype(np.float64)
        with torch.no_grad():
            theirs = full(torch.from_numpy(ids)).logits[0].numpy().astype(np.float64)
        agreed.append(ours.argmax(-1) == theirs.argmax(-1))
        for logits, found in zip((ours, theirs), losses, strict=True):
            shifted = logits[:-1] - logits[:-1].max(-1, keepdims=True)
            log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            found.extend(-np.take_along_axis(log_probabilities, ids[0, 1:, None], -1)[:, 0])
    ours_loss, theirs_loss = (float(np.mean(found)) for found in losses)
    return [
        {"name": "top1_agreement", "value": float(np.concatenate(agreed).mean())},
        {"name": "perplexity_ratio", "value": math.exp(ours_loss - theirs_loss)},
    ]


def held(figure: Figure, bounds: dict[str, float]) -> Figure:
    """The figure with its bound."""
    bound, least = DEFAULTS[figure["name"]]
    return figure | {"bound": bounds.get(figure["name"], bound), "at_least": least}


def passes(figure: Figure) -> bool:
    value, bound = figure["value"], figure["bound"]
    return bool(value >= bound if figure["at_least"] else value <= bound)


def sentence(figure: Figure) -> str:
    """What is wrong, and by how much."""
    side = "least" if figure["at_least"] else "most"
    return (
        f"verification failed: {figure['name']} is {figure['value']:.4f}, must be at {side} {figure['bound']:g} "
        f"({abs(figure['value'] - figure['bound']):.4f} off)"
    )
