"""Faults in single requests of an engine, and in the engine itself; prints what became of each request, as JSON. Runs in
Triton's environment.

    python run_engine_faults.py GENERATOR_VERSION EMBEDDER_VERSION     (folders of built models)
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

version, embedder = (Path(argument) for argument in sys.argv[1:3])
sys.path[:0] = [str(version), str(embedder)]
import adapters  # noqa: E402
import engine as engines  # noqa: E402
from encoder import Encoder  # noqa: E402

card = json.loads((version / "card.json").read_text())
PROMPT = "The river runs past the mill."


class Request:
    """A request and what it was told."""

    def __init__(self, tokens: int = 24, prompt: str = PROMPT, **faults: Any) -> None:
        self.text, self.reason, self.error, self.faults = "", "", "", faults
        self.over = threading.Event()
        parameters = {"max_tokens": tokens, "ignore_eos": True}
        self.generation = engines.Generation(prompt, parameters, self.on_piece, self.is_cancelled)

    def on_piece(self, _: Any, piece: engines.Piece) -> None:
        if piece.finish_reason or piece.error:
            self.reason, self.error = piece.finish_reason or "", piece.error or ""
            self.over.set()
        if self.faults.get("sender"):
            raise OSError("the sender is broken")
        self.text += piece.text

    def is_cancelled(self) -> bool:
        if self.faults.get("look"):
            raise OSError("nobody knows")
        return bool(self.faults.get("left"))

    @property
    def told(self) -> dict[str, Any]:
        assert self.over.wait(120), "a request was never told of its end"
        return {"text": self.text, "reason": self.reason, "error": self.error}


def run(engine: engines.Engine, *requests: Request) -> list[dict[str, Any]]:
    for request in requests:
        engine.submit(request.generation)
    return [request.told for request in requests]


def until(met: Callable[[], bool]) -> None:
    for _ in range(6000):
        if met():
            return
        time.sleep(0.01)
    raise TimeoutError


class Broken:
    """A pipeline whose next steps fail; ``meanwhile`` is called in each with how many are left."""

    def __init__(self, pipeline: Any, steps: int, meanwhile: Callable[[int], None] = lambda left: None) -> None:
        self.pipeline, self.left, self.meanwhile = pipeline, steps, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def step(self) -> None:
        if self.left:
            self.left -= 1
            self.meanwhile(self.left)
            raise RuntimeError("the step failed")
        self.pipeline.step()


def one_request_fails(engine: engines.Engine) -> dict[str, Any]:
    found: dict[str, Any] = {"alone": run(engine, Request())}
    step, failing = engines.Detokenizer.step, Request()

    def broken(self: engines.Detokenizer, token: int) -> str:
        if any(r.detokenizer is self and r.generation is failing.generation for r in engine.running.values()):
            raise ValueError("no text of this token")
        return step(self, token)

    engines.Detokenizer.step = broken  # type: ignore[method-assign]
    found["detokenizer"] = run(engine, Request(), failing, Request())
    engines.Detokenizer.step = step  # type: ignore[method-assign]
    found["sender"] = run(engine, Request(), Request(sender=True), Request())
    found["look"] = run(engine, Request(), Request(look=True), Request())

    def no_metric(_: engines.Engine) -> None:
        raise RuntimeError("Failed to increment")

    engine.on_step = no_metric
    found["metric"] = run(engine, Request(), Request(), Request())
    engine.on_step = lambda _: None
    return found


def queue_and_cache(engine: engines.Engine) -> dict[str, Any]:
    """More requests than slots; and what the blocks of those hold that have ended."""
    engine.most, engine.limit = 2, 3
    entered = threading.Event()

    def wait(_: engines.Engine) -> None:
        entered.wait(60)

    engine.on_step = wait  # the first step ends when all have come
    requests = [Request(), Request(), *(Request() for _ in range(2)), Request(left=True), Request()]
    first = requests[:2]
    for request in first:
        engine.submit(request.generation)
    until(lambda: len(engine.running) == len(first))
    for request in requests[2:]:
        engine.submit(request.generation)
    entered.set()
    told = [request.told for request in requests]
    stopped = Request(400)
    stopped.generation.parameters["stop"] = [told[0]["text"][8:12]]
    told.append(run(engine, stopped)[0])
    until(lambda: engine.idle and engine.cache_usage == 0)  # with no further request
    return {"queue": told}


def engine_fails(engine: engines.Engine, ended: list[str]) -> dict[str, Any]:
    whole = engine.pipeline
    engine.pipeline = Broken(whole, 1)
    found: dict[str, Any] = {"one step": run(engine, Request()), "after it": run(engine, Request())}
    # The second comes in the first one's step, or the steps that follow without any would be the last; the third in the last.
    second, late = Request(), Request()
    coming = {engines.FAILED_STEPS - 1: second, 0: late}

    def come(left: int) -> None:
        if left in coming:
            engine.submit(coming[left].generation)

    engine.pipeline = Broken(whole, engines.FAILED_STEPS, come)
    found["all steps"] = [*run(engine, Request()), second.told, late.told]
    engine._thread.join(60)
    return found | {"ended": ended}


def copies() -> dict[str, Any]:
    """A text that goes on as its prompt did, token by token and by prompt lookup."""
    both = adapters.Engines(version / "weights", card, Path("no adapters"))
    assert both.copying is not None
    prompt = "red, green, blue, white, black, brown, grey, pink.\n" * 4 + "red, green, blue,"
    found: dict[str, Any] = {"steps": {}}
    for name, engine in (("plain", both.base), ("lookup", both.copying)):
        steps: list[int] = []  # with how many requests
        engine.on_step = lambda engine, steps=steps: steps.append(len(engine.running))
        request = Request(40, prompt)
        request.generation.parameters["prompt_lookup"] = name == "lookup"
        both.submit(request.generation, "")
        found[name] = request.told | {"tokens": request.generation.output_tokens}
        found["steps"][name] = sum(map(bool, steps))
    stopped, left = Request(400, prompt), Request(400, prompt, left=True)
    stopped.generation.parameters["stop"] = ["brown"]
    found["ended"] = run(both.copying, stopped, left)
    until(lambda: both.copying.idle and both.copying.cache_usage == 0)
    both.drain(1)
    return found


def byte_fallback() -> dict[str, Any]:
    """Random tokens of a vocabulary as Llama 2's: bytes that are no character, and words."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcdefghij", "▁a", "▁river", "é", "水"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    draw = random.Random(1)
    refused, different = 0, 0
    for _ in range(2000):
        ids = [draw.randrange(1, len(pieces)) for _ in range(24)]
        plain, ours = DecodeStream(skip_special_tokens=True), engines.Detokenizer(tokenizer)
        text = "".join(ours.step(token) for token in ids)
        try:
            different += "".join(plain.step(tokenizer, token) or "" for token in ids) != text
        except Exception:
            refused += 1
    return {"refused": refused, "different": different}


def rows() -> dict[str, Any]:
    """What an encoder computes of texts that only some want, and after a look that raised."""
    encoder = Encoder(embedder / "weights", json.loads((embedder / "card.json").read_text()))
    texts = [f"text {number} " + "of the river " * number for number in range(80)]
    encodings = encoder.encode(texts)
    whole = encoder.run(encodings)
    some = encoder.run(encodings, lambda index: index % 3 == 0)
    looks = []

    def look(index: int) -> bool:
        looks.append(index)
        if len(looks) > 40:
            raise RuntimeError("all clients left")
        return True

    try:
        encoder.run(encodings, look)
        raised = False
    except RuntimeError:
        raised = True
    after = encoder.run(encodings)
    return {
        "unwanted": sum(len(row) for index, row in enumerate(some) if index % 3),
        "wanted": min(float(row @ whole[index]) for index, row in enumerate(some) if index % 3 == 0),
        "raised": raised,
        "widths": sorted({encoder.padded(length) for length in range(1, encoder.max_tokens + 1)}),
        "context": encoder.max_tokens,
        "looks": len(looks),
        "after": min(float(row @ other) for row, other in zip(after, whole, strict=True)),
    }


def main() -> None:
    ended: list[str] = []
    engine = engines.Engine(version / "weights", card, on_end=ended.append)
    found = {"byte fallback": byte_fallback(), "rows": rows()}
    found |= one_request_fails(engine)
    found["copies"] = copies()
    found |= queue_and_cache(engine)
    found |= engine_fails(engine, ended)
    print(json.dumps(found), flush=True)


main()
