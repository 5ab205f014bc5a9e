"""python -m tests.cluster.streams N TOKENS: N chat streams at once; prints how each ended, as JSON.

Run as a client of the cluster (GENMESH_TARGET, GENMESH_API_KEY). "begun" is printed on a line of its own once every
stream has had content.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from genmesh import Client
from genmesh.errors import GenmeshError


def main() -> None:
    count, tokens = int(sys.argv[1]), int(sys.argv[2])
    waiting = threading.Barrier(count + 1)

    def one(number: int) -> str:
        begun = False
        request = {
            "messages": [{"role": "user", "content": f"Tell me story number {number} of the harbour."}],
            "sampling": {"max_tokens": tokens, "ignore_eos": True},
        }
        try:
            for message in client.generation.StreamChat(request, timeout=120):
                if message.text and not begun:
                    begun = True
                    waiting.wait()
        except GenmeshError as failure:
            return f"{failure.code.name} {failure.reason}"
        return "OK" if message.usage.output_tokens == tokens else "cut short"

    with (
        Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        streams = [pool.submit(one, number) for number in range(count)]
        waiting.wait(60)
        print("begun", flush=True)
        print(json.dumps([stream.result() for stream in streams]))


if __name__ == "__main__":
    main()
