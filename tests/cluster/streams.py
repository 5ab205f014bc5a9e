"""python -m tests.cluster.streams N SECONDS: N chat streams at once; prints how each ended, as JSON.

Run as a client of the cluster (GENMESH_TARGET, GENMESH_API_KEY). A line before that says "begun" once every stream has
had content, or "not begun" where one ended before. Streams are as long as the cluster, undisturbed, takes SECONDS for,
within the model's context: how fast it is depends on the machine.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genmesh import Client
from genmesh.errors import GenmeshError

PROBE, MOST = 64, 1900  # tokens of a stream


def main() -> None:
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    waiting = threading.Barrier(count + 1)

    def request(number: int, tokens: int) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": f"Tell me story number {number} of the harbour."}],
            "sampling": {"max_tokens": tokens, "ignore_eos": True},
        }

    def one(number: int) -> str:
        begun = False
        try:
            for message in client.generation.StreamChat(request(number, tokens), timeout=290):
                if message.text and not begun:
                    begun = True
                    waiting.wait()
        except GenmeshError as failure:
            if not begun:
                waiting.abort()
            return f"{failure.code.name} {failure.reason}"
        except threading.BrokenBarrierError:
            return "stopped"
        return "OK" if message.usage.output_tokens == tokens else "cut short"

    with (
        Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        start = time.monotonic()
        list(pool.map(lambda number: client.generation.Chat(request(number, PROBE), timeout=120), range(count)))
        tokens = min(MOST, int(PROBE * seconds / (time.monotonic() - start)))
        streams = [pool.submit(one, number) for number in range(count)]
        try:
            waiting.wait(60)
            print("begun", flush=True)
        except threading.BrokenBarrierError:
            print("not begun", flush=True)
        print(json.dumps([stream.result() for stream in streams]))


if __name__ == "__main__":
    main()
