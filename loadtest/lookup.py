"""What prompt lookup gains a running cluster's chats, with it and without it in turn.

    python -m loadtest.lookup --target 127.0.0.1:8080 --key gm_... [--rounds 3]

"answers": a question of model_repository/retrieval.jsonl with its best passage, laid out as the rag service lays it out; mostly
copied from it. "texts": a short text about three words; hardly anything is copied. Output tokens a second of 1, 4, 16 and 64
clients that ask once each, and the median seconds of a call.
"""

from __future__ import annotations

import argparse
import random
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from genmesh import Client

from loadtest.payloads import WORDS
from loadtest.peers.workload import retrieval
from services.rag import prompt


def answers() -> list[list[dict[str, str]]]:
    passages, queries = retrieval()
    found = []
    for query in queries:
        relevant: Any = query["relevant"]
        chat = prompt.messages(str(query["text"]), [passages[max(relevant, key=relevant.get)]])
        found.append([{"role": message.role, "content": message.content} for message in chat])
    return found


def texts(draw: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Write a short text about {', '.join(draw.sample(WORDS, 3))}."}]


def run(client: Client, chats: list[Any], lookup: bool) -> tuple[float, float]:
    """Tokens a second, and the median seconds of a call."""

    def ask(chat: Any) -> tuple[float, int]:
        begun = time.monotonic()
        sampling = {"max_tokens": 64, "prompt_lookup": lookup}
        answer = client.generation.Chat({"messages": chat, "sampling": sampling}, timeout=300)
        return time.monotonic() - begun, answer.usage.output_tokens

    begun = time.monotonic()
    with ThreadPoolExecutor(len(chats)) as pool:
        found = list(pool.map(ask, chats))
    return sum(tokens for _, tokens in found) / (time.monotonic() - begun), median(seconds for seconds, _ in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    draw, known = random.Random(1), answers()
    print(
        "| prompts | clients | tokens/s, seconds a call | with prompt lookup | tokens/s, ratio |\n| --- | --- | --- | --- | --- |"
    )
    with Client(args.target, api_key=args.key) as client:
        for kind in ("answers", "texts"):
            for clients in (1, 4, 16, 64):
                rounds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
                for turn in range(args.rounds):
                    chats = [draw.choice(known) if kind == "answers" else texts(draw) for _ in range(clients)]
                    for lookup in (turn % 2 == 0, turn % 2 == 1):
                        rounds[lookup].append(run(client, chats, lookup))
                ratio = median(w[0] / wo[0] for wo, w in zip(rounds[False], rounds[True], strict=True))
                columns = [
                    f"{median(r[0] for r in one):.0f}, {median(r[1] for r in one):.2f}"
                    for one in (rounds[False], rounds[True])
                ]
                print(f"| {kind} | {clients} | {columns[0]} | {columns[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
