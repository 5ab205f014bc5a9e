"""Made-up facts with a question each, its short answer, and sentences that do not answer it.

Forms of facts (``forms.py``) are filled with words of real prose (the Python manual and docstrings that come with the
interpreter), and names made of syllables. The sentences that do not answer are hard: most share the question's name or its
relation, or all but one of the parts that the question asks about. Words, names, prose and forms are split once: what
``held_out`` draws, training never saw.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data import topics

from forms import FACTS, FACTS_HELD_OUT, FRAMES, Form, listed

COLOURS = listed("red blue green yellow black white purple orange grey brown pink silver golden")
MONTHS = listed("January February March April May June July August September October November December")
UNITS = listed("""
    metres kilometres litres kilograms tonnes seconds hours minutes days weeks euros miles degrees watts
""")
FRAMES_HELD_OUT = ("Remember that {s}", "As a rule, {s}", "At present {s}", "Like the {w}, {s}", "{N} reports that {s}")
# A question's words that say nothing about what it asks for.
EMPTY_WORDS = frozenset(
    listed("""
what who where when which how why whom does did was were the and for from with that this are has have can may
must should long many much into
""")
)
CONSONANTS = listed("b br d dr f g gl h j k kr l m n p pl r s st t tr v w z")
VOWELS = listed("a e i o u ai ea ou")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SLOT = re.compile(r"\{(\w\d?)\}")
# Which slots a question's first word asks for.
ASKED = {"Who": "PNE", "When": "Ymdtn", "In": "Ym", "Where": "NE"}


def prose_sentences() -> set[str]:
    """Plain sentences of the Python manual's topics."""
    found = set()
    for text in topics.topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            flat = re.sub(r"\s+", " ", re.sub(r"[*`\"\[\]]", "", paragraph)).strip()
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", flat):
                if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()/_-]{30,140}\.", sentence):
                    found.add(sentence)
    return found


def docstring_sentences() -> set[str]:
    """Sentences of the docstrings of Python's standard library: prose with code words, 30 to 190 characters."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", re.sub(r"\s+", " ", paragraph).strip()):
                    if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()/_.`*-]{30,188}\.", sentence):
                        found.add(sentence)
    return found


@cache
def sources() -> tuple[list[str], list[str]]:
    """Words and prose; reading them takes seconds."""
    prose = sorted(prose_sentences() | docstring_sentences())
    return sorted({word for sentence in prose for word in re.findall(r"(?<= )[a-z]{3,14}(?=[ .,])", sentence)}), prose


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Fact:
    """A question, its short answer, the sentence that it stands in, and sentences that do not answer."""

    question: str
    answer: str
    sentence: str
    others: list[str]


class World:
    """A seeded source of facts."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        split = random.Random(20261124)
        words, prose = (list(found) for found in sources())
        syllables = [c + v + e for c in CONSONANTS for v in VOWELS for e in ("", "n", "r", "l", "s", "th")]
        for everything in (words, prose, syllables):
            split.shuffle(everything)
        self.words, self.prose, self.syllables = (
            found[len(found) * 6 // 7 :] if held_out else found[: len(found) * 6 // 7]
            for found in (words, prose, syllables)
        )
        self.forms = FACTS_HELD_OUT if held_out else FACTS
        self.frames = FRAMES_HELD_OUT if held_out else FRAMES

    def word(self) -> str:
        return self.rng.choice(self.words)

    def name(self) -> str:
        r = self.rng
        kind = r.random()
        if kind < 0.55:
            name = "".join(r.choice(self.syllables) for _ in range(r.choice((1, 2, 2, 3))))
        elif kind < 0.9:
            name = self.word()
        else:  # letters at random, as unknown names look
            name = "".join(r.choice(LETTERS) for _ in range(r.randint(2, 8)))
        return f"{upper_first(name)} {self.word().capitalize()}" if r.random() < 0.15 else upper_first(name)

    def person(self) -> str:
        first = upper_first(self.rng.choice(self.syllables))
        return f"{first} {self.name()}" if self.rng.random() < 0.4 else self.name()

    def thing(self) -> str:
        """A name, or a noun phrase in lower case."""
        return self.rng.choices(
            (
                self.name(),
                f"the {self.word()}",
                f"the {self.word()} {self.word()}",
                f"the {self.word()} of {self.name()}",
            ),
            (12, 3, 3, 2),
        )[0]

    def _value(self, kind: str) -> str:
        r = self.rng
        drawn: dict[str, Callable[[], str]] = {
            "E": self.thing, "N": self.name, "P": self.person, "w": self.word, "a": self.word,
            "c": lambda: r.choice(COLOURS), "m": lambda: r.choice(MONTHS), "u": lambda: r.choice(UNITS),
            "Y": lambda: str(r.randint(1200, 2026)), "d": lambda: str(r.randint(2, 28)),
            "n": lambda: str(int(10 ** r.uniform(0.5, 5))), "t": lambda: f"{r.randint(0, 23)}:{r.randint(0, 59):02}",
            "o": lambda: "--" + self.word(), "r": lambda: f"{r.randint(0, 9)}.{r.randint(0, 30)}",
            "k": lambda: f"`{self.word()} {r.choice((self.word(), '--' + self.word(), self.word() + ' ' + self.word()))}`",
            "v": lambda: "_".join(self.word().upper() for _ in range(r.randint(2, 3))),
            "p": lambda: "/".join(self.word() for _ in range(r.randint(1, 3))) + r.choice((".py", ".yaml", ".md", ".json", "", ".txt")),
        }  # fmt: skip
        return drawn[kind]()

    def fill(self, template: str, slots: dict[str, str]) -> str:
        """Fill a template's slots, drawing those that ``slots`` lacks (and adding them there)."""

        def one(match: re.Match[str]) -> str:
            key = match.group(1)
            if key not in slots:
                slots[key] = self._value(key[0])
            return slots[key]

        return upper_first(SLOT.sub(one, template))

    def _framed(self, sentence: str) -> str:
        """Now and then something is said around the sentence."""
        r = self.rng
        if r.random() > 0.12:
            return sentence
        first = sentence.split(maxsplit=1)[0].lower()
        inner = sentence[0].lower() + sentence[1:] if first in ("the", "in", "every", "to", "a", "only") else sentence
        return self.fill(r.choice(self.frames).replace("{s}", inner.replace("{", "(")), {})

    def other(self, old: str, kind: str) -> str:
        """Another value for a slot."""
        while (new := self._value(kind)) == old:
            pass
        return new

    def fact(self) -> Fact:
        """A fact, with one to twelve other sentences."""
        while True:
            form = self.rng.choice(self.forms)
            asking = self.rng.choice(form[1])
            slots: dict[str, str] = {}
            sentence, question = self.fill(form[0], slots), self.fill(asking, slots)
            answer = self.answer(form[0], asking, slots)
            if answer and answer in sentence:
                break
        asked = SLOT.findall(asking)
        said = set(re.findall(r"[a-z]{3,}", SLOT.sub("", asking).lower())) - EMPTY_WORDS
        others: list[str] = []
        for _ in range(self.rng.randint(1, 12)):
            other = self._distractor(form, slots, asked, said) if self.rng.random() < 0.5 else self.anything()
            if other not in (*others, sentence):
                others.append(other)
        return Fact(question, answer, sentence, others)

    def answer(self, statement: str, asking: str, slots: dict[str, str]) -> str:
        """What the statement says and the question does not; empty where that is no short answer."""
        missing = [key for key in SLOT.findall(statement) if "{" + key + "}" not in asking]
        kinds = ASKED.get(asking.split()[0])
        if len(missing) > 1 and kinds:
            missing = [key for key in missing if key[0] in kinds] or missing
        if not missing:
            return ""
        span = statement[
            statement.index("{" + missing[0] + "}") : statement.index("{" + missing[-1] + "}") + len(missing[-1]) + 2
        ]
        if len(re.findall(r"\w+", SLOT.sub("", span))) > 2:
            return ""
        answer = SLOT.sub(lambda match: slots[match.group(1)], span)
        return upper_first(answer) if statement.startswith(span) else answer

    def _distractor(self, form: Form, slots: dict[str, str], asked: list[str], said: set[str]) -> str:
        """The same form with a part that the question names exchanged, another form with one of those parts, or any."""
        r = self.rng
        kind = r.random()
        if kind < 0.5 and asked:
            changed = set(asked) if r.random() < 0.3 else {r.choice(asked)}
            kept = {key: value for key, value in slots.items() if key in asked and key not in changed}
            kept |= {key: self.other(slots[key], key[0]) for key in changed}
            return self._framed(self.fill(form[0], kept))
        other = r.choice(self.forms)
        named = [key for key in asked if key[0] in "ENPw"]
        if kind < 0.85 and named and not any(word in other[0].lower() for word in said):
            shared = r.choice(named)
            places = [key for key in SLOT.findall(other[0]) if key[0] in ("w" if shared[0] == "w" else "ENP")]
            if places and other is not form:
                return self._framed(self.fill(other[0], {r.choice(places): slots[shared]}))
        return self.anything() if other is form else self._framed(self.fill(other[0], {}))

    def anything(self) -> str:
        """A sentence that has nothing to do with the question."""
        if self.rng.random() < 0.6:
            return self.rng.choice(self.prose)
        return self.fill(self.rng.choice(self.forms)[0], {})
