"""Grounded chats for ``genmesh-models finetune``: numbered passages and a question; a short answer with its ``[n]``, the
whole sentence where no part of it may stand alone (``services/rag/spans.py``), or that the passages do not answer.

    PYTHONPATH=. .state/venv/dev/bin/python model_repository/starter/generator/chats.py --squad xquad-en.json --out chats.jsonl

Real ones are made of question sets in SQuAD's format, made-up ones of ``data.py``, laid out as the rag service lays them out:
several passages, or the sentence that answers alone (``GENMESH_READS``). Conversations (``turns.py``) teach to rewrite a question
that refers to earlier turns. Plain chats (``plain.jsonl``, written by hand) keep the model from forgetting how to talk.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import turns
from data import World

from services.rag import prompt
from services.rag.spans import is_span
from services.runtime.sentences import sentence_spans, split_sentences

PLAIN = Path(__file__).with_name("plain.jsonl")
PASSAGE_WORDS = 70  # about services/rag/settings.py's passage_tokens
LONGEST_WORDS = 60  # of an answer
OTHERS = (0, 0, 1, 1, 2, 3)  # passages beside the one that answers


@dataclass(frozen=True)
class Passage:
    """A piece of a paragraph: where it lies, and its sentences with where each begins."""

    paragraph: int
    start: int
    end: int
    sentences: list[tuple[int, str]]

    @property
    def text(self) -> str:
        return " ".join(sentence for _, sentence in self.sentences)


def passages_of(number: int, paragraph: str) -> list[Passage]:
    """Whole sentences, as many as are about PASSAGE_WORDS long."""
    found: list[Passage] = []
    for start, end in sentence_spans(paragraph):
        sentence = prompt.one_line(paragraph[start:end])
        last = found[-1] if found else None
        if last and len(last.text.split()) + len(sentence.split()) <= PASSAGE_WORDS:
            found[-1] = Passage(number, last.start, end, [*last.sentences, (start, sentence)])
        elif sentence:
            found.append(Passage(number, start, end, [(start, sentence)]))
    return found


def chat(question: str, passages: Sequence[str], answer: str) -> dict[str, Any]:
    asked = [{"role": m.role, "content": m.content} for m in prompt.messages(question, passages)]
    return {"messages": [*asked, {"role": "assistant", "content": answer}]}


def target(answer: str, sentence: str, number: int) -> str | None:
    """What the model shall write; None where that is too long."""
    said = answer if is_span(answer, sentence) else sentence
    said = prompt.BRACKETED.sub(r"(\1)", said)
    return None if len(said.split()) > LONGEST_WORDS else f"{said} [{number}]"


def numbered(
    rng: random.Random, question: str, right: str, beside: list[str], answer: str, sentence: str
) -> Iterator[dict[str, Any]]:
    """The chat with the passage that answers at any place; none where the answer is too long, or its sentence is none to the
    check, which splits the passage."""
    if sentence not in split_sentences(right):
        return
    shown = [*beside, right]
    rng.shuffle(shown)
    if said := target(prompt.one_line(answer), sentence, shown.index(right) + 1):
        yield chat(question, shown, said)


def others(rng: random.Random, fitting: Sequence[Passage], question: str, answer: str, count: int) -> list[str]:
    """Passages without the answer that share most words with the question, with some chance."""
    words = set(re.findall(r"\w{4,}", question.lower()))
    texts = [p.text for p in fitting if answer.lower() not in p.text.lower()]
    scores = {t: len(words & set(re.findall(r"\w{4,}", t.lower()))) + 2 * rng.random() for t in texts}
    return sorted(scores, key=scores.__getitem__, reverse=True)[:count]


def real(
    articles: Sequence[dict[str, Any]], times: int, alone: int, unanswered: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Each question so many times with its passage and others of its article, so many times with its sentence ``alone``, and
    some without their passage."""
    rng = random.Random(seed)
    for article in articles:
        passages = [p for n, one in enumerate(article["paragraphs"]) for p in passages_of(n, one["context"])]
        for number, paragraph in enumerate(article["paragraphs"]):
            for asked in paragraph["qas"]:
                question, gold = asked["question"], asked["answers"][0]
                answer, at = gold["text"], gold["answer_start"]
                right = next(
                    (p for p in passages if p.paragraph == number and p.start <= at and at + len(answer) <= p.end), None
                )
                if right is None:
                    continue
                sentence = [s for start, s in right.sentences if start <= at][-1]
                near = [p for p in passages if p is not right]
                far = [p for p in near if p.paragraph != number]
                whole = prompt.one_line(answer) in sentence
                for _ in range(times if whole else 0):
                    beside = others(rng, near, question, answer, rng.choice(OTHERS))
                    yield from numbered(rng, question, right.text, beside, answer, sentence)
                for _ in range(alone if whole else 0):
                    yield from numbered(rng, question, sentence, [], answer, sentence)
                if rng.random() < unanswered * times:
                    count = rng.choice((1, 1, 2, 2, 3))
                    without = others(rng, near if rng.random() < 0.3 else far, question, answer, count)
                    if without:
                        yield chat(question, without, prompt.NO_ANSWER)


def made_up(
    count: int, unanswered: float, seed: int, *, alone: float = 0.0, held_out: bool = False
) -> Iterator[dict[str, Any]]:
    """Facts in one to four passages of a few sentences, a share of them in a sentence ``alone``."""
    world = World(seed, held_out=held_out)
    rng = world.rng
    for _ in range(count):
        fact = world.fact()
        passages: list[list[str]] = [[] for _ in range(rng.randint(1, min(4, len(fact.others))))]
        for place, other in enumerate(fact.others):
            passages[place % len(passages)].append(other)
        if rng.random() < unanswered:
            yield chat(fact.question, [" ".join(p) for p in passages], prompt.NO_ANSWER)
            continue
        if rng.random() < alone:
            yield from numbered(rng, fact.question, fact.sentence, [], fact.answer, fact.sentence)
            continue
        right = rng.choice(passages)
        right.insert(rng.randint(0, len(right)), fact.sentence)
        beside = [" ".join(p) for p in passages if p is not right]
        yield from numbered(rng, fact.question, " ".join(right), beside, fact.answer, fact.sentence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--squad",
        type=Path,
        action="append",
        default=[],
        help="a question set in SQuAD's format; may be given more than once",
    )
    parser.add_argument(
        "--leave-out", type=int, nargs="*", default=[], help="numbers of articles, from 0, that are left out"
    )
    parser.add_argument("--times", type=int, default=1, help="chats of each real question with passages")
    parser.add_argument("--alone", type=int, default=2, help="chats of each real question with its sentence alone")
    parser.add_argument(
        "--made-up", type=int, default=500, help="chats of made-up facts, half of them with a sentence alone"
    )
    parser.add_argument(
        "--unanswered", type=float, default=0.2, help="chats without an answer, a share of those with one"
    )
    parser.add_argument("--turns", type=int, default=6, help="conversations that end with each real question")
    parser.add_argument("--made-up-turns", type=int, default=1500, help="made-up conversations")
    parser.add_argument("--plain", type=int, default=2, help="times that the plain chats are added")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    chats = list(made_up(args.made_up, args.unanswered / (1 + args.unanswered), args.seed, alone=0.5))
    for path in args.squad:
        articles = [a for n, a in enumerate(json.loads(path.read_text("utf-8"))["data"]) if n not in args.leave_out]
        chats += real(articles, args.times, args.alone, args.unanswered, args.seed)
        chats += turns.chats(articles, args.turns, 0, args.seed)
    chats += turns.chats([], 0, args.made_up_turns, args.seed)
    chats += [json.loads(line) for line in PLAIN.read_text("utf-8").splitlines()] * args.plain
    random.Random(args.seed).shuffle(chats)
    args.out.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in chats), "utf-8")
    none = sum(one["messages"][-1]["content"] == prompt.NO_ANSWER for one in chats)
    print(f"{len(chats)} chats, {none} without an answer, in {args.out}")


if __name__ == "__main__":
    main()
