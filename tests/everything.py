"""Calls of every kind, so that every panel of the dashboards has data.

python -m tests.everything SECONDS    (GENMESH_TARGET and GENMESH_API_KEY say where)
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from genmesh import Client
from genmesh.errors import GenmeshError

STREAM = {"prompt": "The river", "sampling": {"max_tokens": 30, "ignore_eos": True}}


def a_bit_of_everything(client: Client, collection: str, round_: int) -> None:
    client.tokenization.Count({"texts": ["x"]})
    client.embedding.Embed({"inputs": [f"observed {round_}", "observed"]})
    document = {
        "id": f"d{round_}",
        "title": "Tower",
        "text": f"The lamp of tower {round_} was lit by Ada Brook in 1911.",
    }
    list(client.rag.Ingest(iter([{"collection": collection, "document": document}])))
    list(client.rag.StreamAnswer({"collection": collection, "question": "Who lit the lamp of the tower?"}))
    list(client.generation.StreamGenerate(STREAM))
    stream = client.generation.StreamGenerate(STREAM | {"sampling": {"max_tokens": 1900, "ignore_eos": True}})
    next(iter(stream))
    stream.cancel()
    client.diffusion.GenerateImage({"prompt": "a red circle", "steps": 3})
    with contextlib.suppress(GenmeshError):
        client.tokenization.Count({"texts": []})


def for_a_while(client: Client, seconds: float) -> None:
    begun, round_ = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        a_bit_of_everything(client, "observed", round_)
        round_ += 1
        time.sleep(0.5)


def main() -> None:
    with Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client:
        for_a_while(client, float(sys.argv[1]))


if __name__ == "__main__":
    main()
