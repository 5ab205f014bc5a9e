"""Text for calibration and for verification. The two never share a sentence.

Calibration reads the Python manual that comes with the interpreter; verification reads
``retrieval.jsonl``, written by hand: passages of many fields, questions, and which passages answer each.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pydoc_data import topics
from typing import Any

from genmesh_models.catalogue import REPOSITORY


@cache
def calibration_texts(count: int = 200) -> list[str]:
    """Prose of many lengths: 1 to 8 sentences of the manual joined."""
    found = []
    for topic in sorted(topics.topics):
        plain = re.sub(r"[*`\\]", "", topics.topics[topic])
        for paragraph in re.split(r"\n\s*\n", plain):
            text = " ".join(paragraph.split())
            found += [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", text) if 20 <= len(s) <= 300 and s.endswith(".")]
    return [" ".join(found[i * 7 % len(found) :][: 1 + i % 8]) for i in range(count)]


@dataclass(frozen=True)
class RetrievalSet:
    """Passages by id, and queries with the grade (2 answers, 1 is related) of each passage that matters."""

    passages: dict[str, str]
    queries: list[tuple[str, dict[str, int]]]

    def candidates(self, query: str, relevant: dict[str, int], count: int = 10) -> list[str]:
        """The relevant passages, and those that share most with the query: words weighed by rarity."""
        words = [set(re.findall(r"\w+", text.lower())) for text in self.passages.values()]
        frequency = Counter(word for found in words for word in found)
        asked = set(re.findall(r"\w+", query.lower()))
        scores = {
            name: sum(math.log(len(words) / frequency[word]) for word in asked & found)
            for name, found in zip(self.passages, words, strict=True)
        }
        best = sorted(scores, key=lambda name: (-scores[name], name))[:count]
        return list(dict.fromkeys([*relevant, *best]))


@cache
def retrieval_set() -> RetrievalSet:
    passages, queries = {}, []
    for line in (REPOSITORY / "retrieval.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "passage" in row:
            passages[row["passage"]] = row["text"]
        else:
            queries.append((row["text"], row["relevant"]))
    return RetrievalSet(passages, queries)


def grounded(count: int) -> list[tuple[str, str]]:
    """Questions with three numbered passages, laid out as rag lays them out, each with its answer: the passage that
    answers, cited; its place changes from one to the next."""
    found = retrieval_set()
    pairs = []
    for place, (query, relevant) in enumerate(found.queries[:count]):
        best = max(relevant, key=lambda name: relevant[name])
        chosen = [name for name in found.candidates(query, relevant, 3) if name != best][:2]
        chosen.insert(place % 3, best)
        numbered = "".join(f"[{i}] {found.passages[name]}\n" for i, name in enumerate(chosen, 1))
        prompt = f"Question: {query}\nPassages:\n{numbered}Question: {query}"
        pairs.append((prompt, f"{found.passages[best]} [{chosen.index(best) + 1}]"))
    return pairs


def held_out(tokenizer: Any, longest: int, count: int) -> list[tuple[list[int], list[int]]]:
    """The token ids of ``grounded``'s prompts, as a chat where the tokenizer has a template, and of their answers; both
    together at most ``longest``, cut where the prompt begins and the answer ends."""
    pairs = []
    for prompt, answer in grounded(count):
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": prompt}]
            asked = tokenizer(
                tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False),
                add_special_tokens=False,
            )
        else:
            asked = tokenizer(f"{prompt}\nAnswer:")
        written = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][: longest // 2]
        pairs.append((asked["input_ids"][-(longest - len(written)) :], written))
    return pairs
