"""Speed and memory of a built model, measured in a process that does nothing else.

    python -m genmesh_models.measure VERSION_FOLDER TASK [INFERENCE_PRECISION OUTPUTS]

Prints one JSON object: ``memory_bytes``, the resident memory of a process that loaded the model and
answered with it, engine and Python included; ``speed`` and ``speed_unit``. The machine's load at the
time is part of the figures: compare only what was measured together.

INFERENCE_PRECISION (f32, bf16) takes the place of the card's. OUTPUTS is a file (.npy) for what the model gave: unit
vectors float32[texts, dimension], scores float32[pairs], texts str[prompts], or an image uint8[height, width, 3].
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models.texts import grounded, retrieval_set

TOKENS, PROMPTS = 32, 16
Work = Callable[[], tuple[int, Any]]  # units of work that were done, and what came out


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def per_second(work: Work) -> tuple[float, Any]:
    """Units of work a second, the best of three rounds after one that warms up; and what came out."""
    _, output = work()
    best = 0.0
    for _ in range(3):
        begun = time.monotonic()
        count, output = work()
        best = max(best, count / (time.monotonic() - begun))
    return best, output


def embedder(folder: Path, card: dict[str, Any]) -> tuple[Work, str]:
    from encoder import open_encoder

    encoder = open_encoder(folder, card)
    texts = list(retrieval_set().passages.values())[:128]
    return lambda: (len(texts), encoder.run(encoder.encode(texts))), "texts/s"


def reranker(folder: Path, card: dict[str, Any]) -> tuple[Work, str]:
    from encoder import Encoder
    from ranker import Ranker

    ranker = Ranker(card, Encoder(folder, card), kept_bytes=0)
    found = retrieval_set()
    pairs = [(query, text) for query, _ in found.queries[:8] for text in list(found.passages.values())[:24]]
    return lambda: (len(pairs), ranker.score(pairs)), "pairs/s"


def generator(folder: Path, card: dict[str, Any]) -> tuple[Work, str]:
    from engine import Generation, Piece, open_engine
    from tokenizers import Tokenizer

    engine = open_engine(folder, card)
    # A prompt longer than half of a small model's context is cut: only the speed counts.
    tokenizer, longest = Tokenizer.from_file(str(folder / "tokenizer.json")), card["context_tokens"] // 2
    prompts = []
    for prompt, _ in grounded(PROMPTS):
        places = tokenizer.encode(prompt, add_special_tokens=False).offsets
        prompts.append(prompt if len(places) <= longest else prompt[: places[longest][0]])
    done = threading.Semaphore(0)
    failures: list[str] = []

    texts: dict[str, str] = {}

    def on_piece(generation: Generation, piece: Piece) -> None:
        texts[generation.prompt] += piece.text
        if piece.error:
            failures.append(piece.error)
        if piece.error or piece.finish_reason:
            done.release()

    def work() -> tuple[int, Any]:
        texts.update(dict.fromkeys(prompts, ""))
        options = {"max_tokens": TOKENS, "ignore_eos": True}
        made = [Generation(p, options, on_piece, lambda: False) for p in prompts]
        for one in made:
            engine.submit(one)
        for _ in made:
            done.acquire()
        if failures:
            raise RuntimeError(failures[0])
        return sum(one.output_tokens for one in made), list(texts.values())

    return work, "tokens/s"


def diffuser(folder: Path, card: dict[str, Any]) -> tuple[Work, str]:
    from genmesh_models.diffusers import drawer

    draw = drawer(
        folder,
        card,
        card["default_width"],
        card["default_height"],
        card["default_steps"],
        card["default_guidance_scale"],
    )

    def work() -> tuple[int, Any]:
        return 1, draw("a red circle", 1)

    return work, "images/s"


def upscaler(folder: Path, card: dict[str, Any]) -> tuple[Work, str]:
    import openvino as ov

    from plugin import options

    compiled = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", options(card))
    picture = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)

    def work() -> tuple[int, Any]:
        return 1, compiled(picture)[0]

    return work, "images/s (128 x 128)"


MEASURES = {"embed": embedder, "rerank": reranker, "generate": generator, "diffuse": diffuser, "upscale": upscaler}


def main() -> None:
    version, task = Path(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, str(version))
    card = json.loads((version / "card.json").read_text())
    if len(sys.argv) > 3:
        card["inference_precision"] = sys.argv[3]
    work, unit = MEASURES[task](version / "weights", card)
    speed, output = per_second(work)
    if len(sys.argv) > 3:
        np.save(sys.argv[4], np.asarray(output))
    print(json.dumps({"memory_bytes": resident_bytes(), "speed": speed, "speed_unit": unit}), flush=True)
    # An engine's thread is still there, and the interpreter's end beneath it can abort the process.
    os._exit(0)


if __name__ == "__main__":
    main()
