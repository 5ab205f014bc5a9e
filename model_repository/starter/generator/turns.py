"""Conversations for ``genmesh-models finetune``: earlier turns, a question that refers to them, and the question in a form that
can be understood alone, in the layout of the rag service (``services/rag/prompt.py``).

Real ones come from question sets in SQuAD's format: two to four questions about a paragraph, where a pronoun replaces what the
last one names and an earlier one or its answer names, too. Made-up ones come from ``data.py``, with pronouns or as "And the
Tarn?". Some last questions need no rewriting and stay as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data import SLOT, World
from forms import listed
from genmesh.v1.common_pb2 import ChatMessage

from services.rag import prompt

# A name: capitalized words in a row, also joined by "of" and the like; not the first word of a question.
NAME = re.compile(r"(?<=[a-z,] )(?:the )?[A-Z][\w’-]+(?: (?:(?:of|the|de|von|and) )*[A-Z\d][\w’-]*)*(?:['’]s)?")
# What may follow a name that is no adjective: "the Turing machine" must not become "it machine".
AFTER_NAME = re.compile(
    r"\s*(?:$|[?,;)]|(?:in|on|at|to|for|from|by|of|and|or|with|as|into|during|after|before|than|that|when|over|under|about|"
    r"is|are|was|were|has|have|had|did|does|do|can|could|will|would|be|been|used?|called|named|known|made|play|win|get|"
    r"\w+ed|\w{2,}ing|announce|tell|describe|give|take|own|write|think|believe|live|join|start|begin|become|come|go|leave|say)\b)"
)
BEFORE_SUBJECT = frozenset(
    listed("did does do was were is are has had have can could will would when that if because while")
)
PRONOUNS = {
    "subject": ("it", "they", "he", "she"),
    "object": ("it", "them", "him", "her"),
    "possessive": ("its", "their", "his", "her"),
}
# Positions in PRONOUNS, as often as each is drawn.
FOR_THINGS, FOR_PEOPLE = (0, 0, 0, 1), (2, 3, 1)
ELLIPSES = ("And {x}?", "What about {x}?", "And what about {x}?", "How about {x}?", "and {x}?", "{x}?")


@dataclass(frozen=True)
class Conversation:
    """``turns``: questions and answers; ``standalone``: what ``question`` means after them."""

    turns: list[tuple[str, str]]
    question: str
    standalone: str

    def chat(self) -> dict[str, Any]:
        messages = [
            ChatMessage(role=role, content=content)
            for turn in self.turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        asked = [{"role": m.role, "content": m.content} for m in prompt.standalone(messages, self.question)]
        return {"messages": [*asked, {"role": "assistant", "content": self.standalone}]}


def names(question: str) -> list[str]:
    """The names in a question, the longest first."""
    matches = [
        m for m in NAME.finditer(question) if m.group().endswith(("'s", "’s")) or AFTER_NAME.match(question, m.end())
    ]
    return sorted((re.sub(r"['’]s$", "", m.group()) for m in matches), key=len, reverse=True)


def with_pronoun(question: str, name: str, pronoun: int) -> str:
    """The question with a pronoun instead of a name."""
    before, after = question.split(name, 1)
    if after.startswith(("'s", "’s")):
        word, after = PRONOUNS["possessive"][pronoun], after[2:]
    else:
        preceding = before.split()[-1].lower() if before.split() else ""
        word = PRONOUNS["subject" if preceding in BEFORE_SUBJECT else "object"][pronoun]
    return (before[:-4] if before.lower().endswith(" the ") else before) + word + after


def real(articles: Sequence[dict[str, Any]], times: int, seed: int) -> Iterator[Conversation]:
    """Every question ``times`` times as the last one, after one to three others about its paragraph."""
    rng = random.Random(seed)
    for article in articles:
        for paragraph in article["paragraphs"]:
            for i, last in enumerate(paragraph["qas"]):
                question = prompt.one_line(last["question"])
                others = [other for n, other in enumerate(paragraph["qas"]) if n != i]
                for _ in range(times if others else 0):
                    earlier = rng.sample(others, min(len(others), rng.choice((1, 1, 2, 3))))
                    turns = [(other["question"], other["answers"][0]["text"]) for other in earlier]
                    text = " ".join(f"{q} {a}" for q, a in turns)
                    shared = [name for name in names(question) if name.removeprefix("the ") in text]
                    if shared:
                        yield Conversation(
                            turns, with_pronoun(question, shared[0], rng.choice((*FOR_THINGS, *FOR_PEOPLE))), question
                        )
                    if not shared or rng.random() < 0.3:
                        yield Conversation(turns, question, question)


def made_up(count: int, seed: int, *, held_out: bool = False) -> Iterator[Conversation]:
    """About a third of them with an ellipsis, half with a pronoun, the others with a question that needs no rewriting."""
    world = World(seed, held_out=held_out)
    rng = world.rng
    while count:
        (statement, questions), (_, later_questions) = rng.choice(world.forms), rng.choice(world.forms)
        slots: dict[str, str] = {}
        asking = rng.choice(questions)
        sentence, question = world.fill(statement, slots), world.fill(asking, slots)
        answer = world.answer(statement, asking, slots)
        keys = named(asking)
        if not answer or not keys:
            continue
        key = rng.choice(keys)
        turns = [(question, rng.choice((answer, sentence)))]
        while rng.random() < 0.3:  # an earlier turn about something else
            other = world.fact()
            turns.insert(0, (other.question, other.answer))
        kind = rng.random()
        if kind < 0.3:
            value = world.other(slots[key], key[0])
            last, standalone = rng.choice(ELLIPSES).replace("{x}", value), world.fill(asking, slots | {key: value})
        else:
            later = rng.choice(later_questions)
            if later == asking or not named(later):
                continue
            last = standalone = world.fill(later, {named(later)[0]: slots[key]})
            if kind < 0.85 and slots[key] in standalone[1:]:
                last = with_pronoun(standalone, slots[key], rng.choice(FOR_PEOPLE if key[0] == "P" else FOR_THINGS))
        yield Conversation(turns, last, standalone)
        count -= 1


def named(template: str) -> list[str]:
    """The slots of a template that a name or a thing fills."""
    return [slot for slot in SLOT.findall(template) if slot[0] in "ENP"]


def chats(articles: Sequence[dict[str, Any]], times: int, count: int, seed: int) -> list[dict[str, Any]]:
    """All real conversations whose last question refers to earlier turns, a third as many that do not, and ``count`` made-up
    ones."""
    every = list(real(articles, times, seed))
    referring = [one for one in every if one.question != one.standalone]
    others = [one for one in every if one.question == one.standalone]
    others = random.Random(seed).sample(others, min(len(others), len(referring) // 3))
    return [one.chat() for one in (*referring, *others, *made_up(count, seed))]
