"""How long a running stream pauses while other prompts are read, by ``max_batched_tokens``. Runs in Triton's environment.

    python loadtest/pauses.py .state/models/generator/VERSION 512 256 128 64

One stream writes while a prompt of 1,400 words, and then four of 350, are read; a pause is the time from one token to the next,
in milliseconds. Then 16 and 64 prompts of 100 words at once: tokens a second in all, and the median TTFT in milliseconds.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

WORDS = ["river", "stone", "cloud", "engine", "letter", "garden", "winter", "copper", "market", "bridge", "signal"]


class Asked:
    """A request, and when each piece of its text came."""

    def __init__(self, engine: Any, kind: Any, words: int, tokens: int, draw: random.Random) -> None:
        self.begun, self.times, self.over = time.monotonic(), list[float](), threading.Event()
        prompt = " ".join([f"{draw.getrandbits(40):010x}", *draw.choices(WORDS, k=words)])
        parameters = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0.0}
        engine.submit(kind(prompt, parameters, self.on_piece, lambda: False))

    def on_piece(self, _: Any, piece: Any) -> None:
        self.times.append(time.monotonic())
        if piece.finish_reason or piece.error:
            self.over.set()

    @property
    def ttft(self) -> float:
        return 1000 * (self.times[0] - self.begun)


def pause(engine: Any, kind: Any, count: int, words: int, draw: random.Random) -> float:
    stream = Asked(engine, kind, 3, 160, draw)
    while len(stream.times) < 10:
        time.sleep(0.005)
    for other in [Asked(engine, kind, words, 4, draw) for _ in range(count)]:
        other.over.wait()
    stream.over.wait()
    return 1000 * max(b - a for a, b in zip(stream.times, stream.times[1:], strict=False))


def main() -> None:
    version = Path(sys.argv[1])
    sys.path.insert(0, str(version))
    from engine import Generation, open_engine

    card, draw = json.loads((version / "card.json").read_text()), random.Random(1)
    print("max_batched_tokens | pause: 1,400 words, 4 x 350 | 16 clients: tokens/s, TTFT | 64 clients: tokens/s, TTFT")
    for batched in map(int, sys.argv[2:]):
        changed = {"max_batched_tokens": batched, "stream_milliseconds": 0, "stream_interval": 1}
        engine = open_engine(version / "weights", card | changed)
        pause(engine, Generation, 1, 100, draw)  # warms up
        row = [f"{pause(engine, Generation, *others, draw):.0f}" for others in ((1, 1400), (4, 350))]
        for clients in (16, 64):
            begun = time.monotonic()
            asked = [Asked(engine, Generation, 100, 64, draw) for _ in range(clients)]
            for one in asked:
                one.over.wait()
            row.append(f"{64 * clients / (time.monotonic() - begun):.0f}, {median(one.ttft for one in asked):.0f}")
        print(batched, *row, sep=" | ", flush=True)
        engine.close()


if __name__ == "__main__":
    main()
