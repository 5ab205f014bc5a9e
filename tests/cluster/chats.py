"""python -m tests.cluster.chats CONVERSATIONS TURNS SEED: conversations that go on side by side, as people have them.

Run as a client of the cluster (GENMESH_TARGET, GENMESH_API_KEY); prints nothing, fails where a call fails.
"""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor

from genmesh import Client

WORDS = "river stone lamp copper bread winter garden letter silver window morning bridge paper field".split()  # noqa: SIM905
SYSTEM = "You are a patient assistant who answers in plain words and never makes anything up about the harbour."


def converse(client: Client, seed: str, turns: int) -> None:
    draw = random.Random(seed)
    messages = [{"role": "system", "content": SYSTEM}]
    for _ in range(turns):
        messages.append({"role": "user", "content": " ".join(draw.choices(WORDS, k=20))})
        answer = client.generation.Chat({"messages": messages, "sampling": {"max_tokens": 12}}, timeout=60)
        messages.append({"role": "assistant", "content": answer.message.content or "I see."})


def main() -> None:
    conversations, turns = int(sys.argv[1]), int(sys.argv[2])
    with (
        Client(os.environ["GENMESH_TARGET"], api_key=os.environ["GENMESH_API_KEY"]) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        for done in [pool.submit(converse, client, f"{sys.argv[3]}/{i}", turns) for i in range(conversations)]:
            done.result()


if __name__ == "__main__":
    main()
