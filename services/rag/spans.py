"""Short answers: whether a part of a sentence says nothing that the whole does not.

"Seven years" may stand for "Audit logs are kept for seven years." It may not if words that it leaves out change what it says:
a negation, a hedge, a condition, somebody's claim, a unit, a part of a quantity, of a date or of a name. Nothing is parsed:
any word that could change it refuses it, and then the whole sentence is quoted. The lists are English: a part of a sentence
in another language is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from services.rag.words import ARTICLES, STOP, TOKEN, stem, word_set

LONGEST = 20  # tokens of a short answer; a longer one is a statement
LONGEST_SENTENCE = 120  # tokens; each place of an answer in it is read once more


# Outside of the span, anywhere in the sentence: conditions, exceptions, negations, what is disputed or has ended.
EVERYWHERE = word_set("""
    if unless whether providing assuming suppose supposed supposing otherwise else only solely exclusively merely until till whenever
    wherever except excepted excepting excluding excluded exception exceptions barring notwithstanding apart aside besides depending
    depends dependent contingent condition subject pending conditional conditionally false falsely untrue myth myths mistaken mistakenly
    incorrect incorrectly erroneous erroneously hoax rumour rumours rumoured rumor rumors rumored nobody none neither nor not no never
    nothing nowhere cannot confirmed unconfirmed verified unverified disputed disputes contested denied doubt doubts doubted doubtful
    dubious uncertain unclear unproven disproved disproven debunked refuted retracted revoked repealed rescinded annulled void invalid
    cancelled canceled reversed overturned withdrawn withdrew postponed delayed superseded discontinued deprecated obsolete outdated
    scrapped shelved expired abolished anymore error mistake supposedly allegedly reportedly purportedly ostensibly
""")
# Outside of the span, in its clause: weaker negations, hedges, plans, claims, what was once. The verbs in any form.
CLAUSE = word_set("""
    without hardly barely scarcely rarely seldom few little absence absent failure refusal vetoed vetoes spared opposed opposes
    forbidden forbade withheld exempt immune devoid bereft incapable unable inability impossible negative wrong wrongly unlikely rather
    contrary unlike opposite lieu instead too anything may might could would should ought possible possibly conceivable conceivably
    plausible plausibly probable probably perhaps maybe likely likelihood probability possibility prospect chance risk threat danger
    talks bid apparently apparent seemingly presumably arguably potentially potential theoretically hypothetically hypothetical
    hypothesis notionally tentative tentatively slated according opinion critics analysts observers experts pundits speculation said
    told thought sought foretold forecast swore foresaw scheduled attempted requested temporarily provisional provisionally once ceased
    former nearly almost approximately roughly circa approx virtually practically nominally fictional fictitious imaginary unofficial
    unofficially just optional optionally either maximum minimum max min approximate stated forgot acquitted cleared lapsed reported
    demanded touted billed dubbed
""")
VERBS = frozenset(map(stem, word_set("""
    neglect forget lack fail refuse deny reject decline dismiss forbid prohibit prevent avoid escape miss refrain exclude omit skip
    ignore ban block stop quit resist waive abandon seem appear hypothesise hypothesize theorise theorize purport imagine claim allege
    believe think suspect assume argue suggest say tell assert insist contend maintain warn testify accuse blame attribute ascribe
    credit advertise describe hail portray perceive depict estimate expect hope fear plan propose intend predict promise want wish try
    aim seek recommend indicate consider regard view deem proclaim speculate conjecture surmise guess declare preach vow pledge threaten
    dream pretend feign imply infer envisage envision foresee anticipate contemplate mull weigh await urge advocate boast brag complain
    swear vie petition look sound suspend discourage bypass halt shun
""")))  # fmt: skip
APPROXIMATE = word_set("nearly almost approximately roughly circa approx estimated just")
PHRASES = re.compile(
    r"\b(?:in case|event of|(?:so|as) long as|other than|far from|at (?:least|most|first|the time)|(?:state|report|view)s? that"
    r"|all but|attempts? to|(?:ruled|left) out|turned down|for now|(?:so|thus) far|in the past|for a (?:while|time)|save for"
    r"|as (?:if|though)|any longer|g[ai]ve[sn]? up|yet to|back then|(?:has|have|had) since|call(?:s|ed)? for|free (?:of|from)"
    r"|in (?:his|her|their|its|the) (?:view|eyes|words|novel|film|story|legend|myth|play|book|poem|game|series)|on paper"
    r"|in (?:theory|principle|those days)|from (?:next|now|then|tomorrow)|(?:\w+ed|\w+s) to (?:be|have)|(?:is|are|was|were) to|on request"
    r"|by appointment|(?:set|meant|about|going|bound|track|ready|keen|sure|certain|poised|way|(?:is|are|was|were) due) to)\b"
    r"|\b(?:the then|(?:to|would) - be|so - called|self - \w+)$"
)
# Outside of the span, in its clause before it, or in the same part of it: what holds not always or not for all.
WEAK = word_set("""
    sometimes occasionally usually often frequently mostly mainly largely partly partially generally typically normally originally
    initially formerly previously
""")
# A comma and one of these begin another clause, unless it says something about the one before ("although it may ...").
JOINING = word_set("but while whereas although though which who whose where")
RELATIVE = word_set("which who whose where")
PRONOUNS = word_set("it this that these those they he she there we")
# Right before the span.
BEFORE = word_set("""
    before after since near beyond outside against despite versus vs ex non pseudo semi quasi anti pro vice deputy assistant acting
    interim retired outgoing designate fake counterfeit replica late early mid less more fewer most than half quarter third twice double
    triple thrice time times per like or nor every any many several some additional extra sub c ca as
""")
# "as" after these names what something is.
NAMING = word_set("runs run known such well serves serve served used acts works worked defined")
# Before "of", "to", "from" ... right before the span: a part, a place beside it, a comparison.
BEFORE_LINK = word_set("""
    most some many few several half quarter third thirds majority minority part parts portion share percent percentage fraction number
    all any each every one none much more less least rest remainder end beginning start middle north south east west northeast northwest
    southeast southwest outside inside short ahead top bottom edge outskirts close next prior up down that those point similar compared
    equal equivalent relative contrast copy risk member members version kind type sort spring summer autumn winter morning evening
    afternoon night eve average total excess times starts starting begins nearer closer signs trace traces hint hints out replica
    replicas style imitation parody low
""")
# Right before a span that begins with a number or a month: a bound, the other end of a range, or the whole of a share.
BEFORE_NUMBER = word_set("""
    to and of from through by past towards toward over under above below about around up exceeding minus plus between within throughout
    level grade class type model
""")
AFTER = word_set("bar save before after since or nor per ago than more less fewer extra alone each apiece")
# Right after a quantity; anywhere in the clause after it; a number's other end or whole.
AFTER_QUANTITY = word_set("""
    a an later earlier before after above below over under past from away behind older younger longer shorter higher lower taller wider
    deeper heavier lighter faster slower north south east west ahead prior
""")
RATE = word_set("per each every daily weekly monthly yearly annually hourly apiece")
BETWEEN_NUMBERS = word_set("to and by in x out through until till")
# Right after a span that ends with a number: what does not belong to it.
AFTER_NUMBER = STOP - word_set("of or to than each any some about over under per am s t i a an me")
NUMBERS = word_set("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
    twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million millions billion billions trillion
    trillions dozen dozens half quarter third halves thirds quarters fifths few several many couple pair both all every another other
""")
ORDINALS = word_set("first second third fourth fifth sixth seventh eighth ninth tenth next last")
MONTHS = word_set("january february march april may june july august september october november december")
ASIDE = word_set("by called known referred described with in for from resulting")
AUXILIARY = word_set("""
    is are was were be been being am has have had does did do will can must shall may might could would should cannot
""")
COPULA = word_set("is are was were be been became become becomes called named as known")
PAST = word_set("""
    became becomes won took ran began got gave grew fell rose lost met paid cut broke chose came drew drove ate fought flew forgot hit
    hurt knew rode sang saw shot sat slept spoke stood stole swam threw wore went wrote left beat made led sold held sent set kept found
    put built bought brought caught laid spent taught told drank swore shook froze hid bit bore tore woke blew dug fed fled hung shone
    sank spun split spread stuck struck swept swung lent meant felt dealt shut cost cast let
""")
PREPOSITIONS = word_set("""
    above of in on at by for from to with into onto upon over under during among across via until without through
""")
LINKING = PREPOSITIONS | word_set("and or also then including include while because using against between both")
DETERMINERS = ARTICLES | word_set("his her its their our your my this these")
SUBJECTS = ARTICLES | PRONOUNS | word_set("his her its their no all some many most")
AFTER_NOUN = word_set("after before since according near")
OBJECTS = word_set("its his her it")
ENABLING = word_set("able order used helps helped began continued managed")
LINKS = word_set("of to from with in at")
WITHIN_NAMES = word_set("of on upon over and")
RESTRICTING = word_set("for with during under upon")
BEFORE_VERB = word_set("to that which who will can must shall")
LEADING = PREPOSITIONS | word_set("after before upon once following")
ENGLISH = word_set("""
    the and of with from that which are were have has this these their its is was by for an to it or not in at on be
""")
FOREIGN = word_set("""
    der die das und ist nicht von mit ein eine einen einem den dem des im zu auf für wird werden sind le la les et est un une du dans
    pour sur au aux ne pas el los las y en por para se del con una que het een van niet voor il di che och att som på og det em da do
    não é
""")
SIGNS = frozenset("-+±<>=≤≥€$£¥%°/@#&_–—")
YEAR = re.compile(r"1\d{3}|20\d{2}")
EDGE = re.compile(r"""[\s,;:.!?()\[\]"“”'’‘…]*""")  # what may stand between a span and its neighbour
MARK = re.compile(r"[,;:()]")
UNREAD = re.compile(r"""[\w\s,;:.!()\[\]"“”'’‘…*`]""")  # an answer's other signs stand in the sentence, too
STOPPING = re.compile(r"""[,;:()"“”]""")
WORD_OR_SIGN = re.compile(TOKEN.pattern + "|[–—]")


@dataclass(frozen=True)
class _Token:
    text: str  # as it stands there
    start: int
    end: int

    @cached_property
    def word(self) -> str:
        return self.text.lower().replace("’", "'")

    @cached_property
    def year(self) -> bool:
        return YEAR.fullmatch(self.text) is not None

    @cached_property
    def numeric(self) -> bool:
        return self.text[0].isdigit() or self.word in NUMBERS | ORDINALS

    @cached_property
    def amount(self) -> bool:
        return self.numeric and not self.year and self.word not in ORDINALS

    @cached_property
    def capital(self) -> bool:
        return self.text[0].isupper()

    @cached_property
    def month(self) -> bool:
        return self.capital and self.word in MONTHS

    @cached_property
    def name(self) -> bool:
        return self.capital and self.word not in STOP

    @cached_property
    def subject(self) -> bool:
        return self.capital or self.numeric or self.word in SUBJECTS


@dataclass(frozen=True)
class _Span:
    sentence: str
    tokens: list[_Token]
    words: list[str]
    begin: int
    end: int

    def gap(self, at: int) -> str:
        """What stands before a token."""
        return self.sentence[self.tokens[at - 1].end : self.tokens[at].start]

    @cached_property
    def clause(self) -> tuple[int, int]:
        begins = [at for at in range(1, len(self.words)) if self._joint(at)]
        first = max((at for at in begins if at <= self.begin), default=0)
        return first, min((at for at in begins if at >= self.end), default=len(self.words))

    def _joint(self, at: int) -> bool:
        word, following = self.words[at], self.tokens[at + 1 : at + 2]
        if ";" in self.gap(at) or "," not in self.gap(at) or word not in JOINING or not following:
            return ";" in self.gap(at)
        if word in RELATIVE:
            return at != self.end and following[0].word not in PRONOUNS  # right after the span it speaks of the span
        return following[0].subject and following[0].word not in PRONOUNS

    def outside(self) -> list[int]:
        return [at for at in range(len(self.words)) if not self.begin <= at < self.end]


def _tokens(text: str) -> list[_Token]:
    return [_Token(match.group(), match.start(), match.end()) for match in WORD_OR_SIGN.finditer(text)]


def _words(tokens: Sequence[_Token]) -> list[str]:
    words = [token.word for token in tokens]
    return words[next((at for at, word in enumerate(words) if word not in ARTICLES), len(words)) :]


def _marks(text: str) -> list[str]:
    return MARK.findall(text.strip(" .,;:()"))


def _balanced(text: str) -> bool:
    return text.count("(") == text.count(")")


def is_span(answer: str, sentence: str) -> bool:
    """Whether an answer stands word for word in a sentence, and what it leaves out does not change what it says."""
    wanted, tokens = _words(_tokens(answer)), _tokens(sentence)
    if not 0 < len(wanted) <= LONGEST or not {*UNREAD.sub("", answer)} <= {*sentence}:
        return False
    if wanted == _words(tokens):
        return True
    english = sum(token.word in ENGLISH for token in tokens) > sum(token.text in FOREIGN for token in tokens)
    if len(tokens) > LONGEST_SENTENCE or all(word in STOP for word in wanted) or not english or "?" in sentence:
        return False
    words, size = [token.word for token in tokens], len(wanted)
    return any(
        words[at : at + size] == wanted
        and _marks(answer) == _marks(sentence[tokens[at].start : tokens[at + size - 1].end])
        and _balanced(sentence[tokens[at].start : tokens[at + size - 1].end])
        and not any(check(_Span(sentence, tokens, words, at, at + size)) for check in CHECKS)
        for at in range(len(words) - size + 1)
    )


def _changed(span: _Span) -> bool:
    """Whether a word outside of the span, near or far, changes what it says."""
    words, tokens, (first, last) = span.words, span.tokens, span.clause
    if words[0] in ("to", "for") and any("," in span.gap(at) for at in range(1, span.begin + 1)):
        return True  # "For the Stoics, virtue is enough": somebody's claim, or a purpose
    parts = " ".join(words[: span.begin]), " ".join(words[span.end :])
    return any(PHRASES.search(part) for part in parts) or any(
        words[at] in EVERYWHERE
        or words[at].endswith("n't")
        # A condition, unless it says what happened once.
        or (words[at] == "when" and not any(token.year for token in tokens))
        or (words[at] in ("provided", "given") and _condition(span, at))
        or (first <= at < last and not (at and tokens[at].capital) and _changes_clause(span, at))
        for at in span.outside()
    )


def _condition(span: _Span, at: int) -> bool:
    """Whether "provided" or "given" is no verb."""
    before = span.words[:at]
    return not before or "," in span.gap(at) or (before[-1] not in AUXILIARY and bool(AUXILIARY & {*before}))


def _changes_clause(span: _Span, at: int) -> bool:
    word, (following, second) = span.words[at], (*span.tokens[at + 1 : at + 3], *2 * [_Token(".", 0, 0)])[:2]
    if word == "used":
        return following.word == "to" and at > 0 and span.words[at - 1] not in AUXILIARY
    if word == "that":  # "... that the dam is safe" is a claim, a wish, a fear
        return 0 < at < span.begin and following.subject
    if word == "to":  # "to buy a bank" says what shall be; "to" with a noun says where
        purpose = following.word in STOP or following.capital or following.word.endswith(("ing", "ed"))
        return at < span.begin - 2 and second.subject and not purpose and span.words[at - 1] not in ENABLING
    if word in WEAK:
        aside = any(STOPPING.search(span.gap(place)) for place in range(span.end, at + 1))
        return not (aside and (following.word in ASIDE or following.word.endswith("ing")))
    if word in APPROXIMATE and following.numeric and at + 1 != span.begin:
        return False
    return word in CLAUSE or stem(word) in VERBS


def _verb(span: _Span, at: int) -> bool:
    """Whether a word looks like a finite verb."""
    word, token = span.words[at], span.tokens[at]
    before, after = {*span.words[max(0, at - 1) : at]}, span.tokens[at + 1 : at + 2]
    if not token.text.islower():
        return False
    if word in AUXILIARY | PAST:
        return True
    if word.endswith("ed") and len(word) > 3 and not word.endswith("eed"):  # but "a closed door", "a suite created by"
        participle = [token.word for token in after] == ["by"] and not before & AUXILIARY
        return bool(before - ARTICLES - PREPOSITIONS) and not participle
    if (
        after
        and at > span.begin
        and after[0].word in ARTICLES
        and word not in STOP | LINKING
        and not word.endswith("ing")
    ):
        return True  # "... pay the toll"
    if not after or not word.endswith("s") or word.endswith(("ss", "us", "is", "'s")):
        return False
    named = at > span.begin > 0 and span.tokens[at - 1].name and span.words[span.begin - 1] in PREPOSITIONS
    return after[0].numeric or after[0].word in ARTICLES | OBJECTS or (named and not STOPPING.search(span.gap(at + 1)))


def _statement(span: _Span) -> bool:
    """Whether the span is a part of a statement: its subject may be another, or what restricts it may be left out."""
    words, begin, end, (first, last) = span.words, span.begin, span.end, span.clause
    if {*words[max(0, begin - 2) : begin]} - ARTICLES and words[begin - 1 - (words[begin - 1] in ARTICLES)] in COPULA:
        return False
    starts = begin == first or (begin == first + 1 and words[first] in ARTICLES | JOINING)
    if not starts and end == last and end - begin > 2 and words[first] in LEADING:  # "With a note, [staff ...]"
        return "," in span.gap(begin - (words[begin - 1] in ARTICLES))
    ending = span.tokens[end - 1].text  # "[The lift works] during ..."
    verbal = ending.islower() and ending.endswith("s") and begin < end - 1 and words[end - 2] not in STOP
    if verbal and starts and end < last and words[end] in (PREPOSITIONS | JOINING) - {"of"}:
        return True
    verbs = [at for at in range(begin, end) if _verb(span, at)]
    return bool(verbs) and (end != last or (verbs[-1] > begin and not starts))


def _left(span: _Span) -> bool:
    """Whether something right before the span belongs to it."""
    words, tokens, begin = span.words, span.tokens, span.begin
    first = tokens[begin + 1] if tokens[begin].text in "$€£" and begin + 1 < span.end else tokens[begin]
    at = max((place for place in range(begin) if words[place] not in DETERMINERS), default=-1)
    if at < 0:
        return EDGE.fullmatch(span.sentence[: tokens[0].start]) is None
    left, before = tokens[at], tokens[at - 1] if at else _Token(".", 0, 0)
    gap = span.sentence[left.end : tokens[begin].start]
    if left.text in "–—" and span.gap(at) and gap and not before.numeric and not first.numeric:
        return False
    edges = span.gap(at + 1) + span.gap(begin)
    if left.text in SIGNS or " " not in gap or not EDGE.fullmatch(edges) or "than" in words[max(0, begin - 4) : begin]:
        return True
    if STOPPING.search(gap):
        dated = first.year and any(token.month for token in tokens[max(0, at - 2) : at + 1])
        return "," in gap and (dated or (first.numeric and (left.amount or before.amount)))
    if left.word in BEFORE:
        return left.word != "as" or not (before.word in NAMING or before.word.endswith("ed"))
    if left.word in LINKS and (
        before.word in BEFORE_LINK or before.text == "%" or (before.amount and left.word == "of")
    ):
        return True
    if first.name and not first.month and before.name and (left.word == "of" or (at > 1 and left.word in WITHIN_NAMES)):
        return left.word != "and" or span.end - begin == 1
    if (first.numeric or first.month) and left.word in BEFORE_NUMBER:
        ranges = (tokens[place + 1] for place in range(begin, span.end - 1) if words[place] in ("to", "–"))
        whole = left.word == "from" and any(token.numeric or token.month for token in ranges)
        return not whole and not (left.word == "of" and first.year and before.name and not before.month)
    if left.numeric or left.month or (left.name and (first.name or first.numeric)):
        return True
    if first.numeric and left.word not in STOP and (before.amount or before.word in ARTICLES):
        return True
    # A noun without what stands before it, as in "peanut [butter]".
    if first.capital or first.numeric or at != begin - 1 or {left.word, first.word} & (LINKING | STOP | COPULA | PAST):
        return False
    verb = left.word.endswith("ed") and not {before.word} & (ARTICLES | PREPOSITIONS | {"."})
    return not verb and not re.search(r"(?:[^s]s|ing)$", left.word) and before.word not in BEFORE_VERB


def _right(span: _Span) -> bool:
    """Whether something right after the span belongs to it."""
    words, tokens, begin, end = span.words, span.tokens, span.begin, span.end
    if end == len(tokens):
        return EDGE.fullmatch(span.sentence[tokens[-1].end :]) is None
    last, right, gap, rest = tokens[end - 1], tokens[end], span.gap(end), words[end : span.clause[1]]
    following = next((token for token in tokens[end + 1 :] if token.word not in ARTICLES), _Token(".", 0, 0))
    quantity = any(token.amount for token in tokens[begin:end])
    dated = any(token.month for token in tokens[begin:end])
    if last.text in STOP | LINKING or (right.word == "of" and not quantity):
        return True  # "the capital [of]"
    if right.text in "–—" and gap and end + 1 < len(words) and span.gap(end + 1) and not last.numeric:
        return quantity and not RATE.isdisjoint(rest)
    if right.text in SIGNS or " " not in gap or not EDGE.fullmatch(gap) or (dated and right.year):
        return True
    if quantity and (right.numeric or right.word in AFTER_QUANTITY or not RATE.isdisjoint(rest)):
        return True
    if STOPPING.search(gap):
        return "," in gap and "or" in rest[:8]
    if right.word in AFTER or right.numeric:
        return True
    if (quantity or dated or last.numeric) and right.word in BETWEEN_NUMBERS and (following.numeric or following.month):
        return right.word != "in" or not following.year
    # "free [for members]", "€20 [with a card]"
    bare = begin > 0 and words[begin - 1] in AUXILIARY and not tokens[begin].numeric and not tokens[begin].capital
    if (bare and right.word in PREPOSITIONS - {"of", "by"}) or (quantity and right.word in RESTRICTING):
        return True
    if end - begin == 1 and last.name and right.word == "and" and following.name and following.word not in MONTHS:
        return True  # "[Bosnia] and Herzegovina"
    if last.name and (right.name or (right.word in WITHIN_NAMES - {"and"} and following.name)):
        return True
    if last.numeric:
        year = last.year and not last.text.endswith("00") and words[max(0, begin - 1) : end - 1] == ["in"]
        return right.word not in AFTER_NUMBER and not (year and (right.name or right.word.endswith("ing")))
    # A noun or an adjective without what follows it, as in "[peanut] butter".
    if {last.word, right.word} & (STOP | LINKING | AFTER_NOUN) or right.word.endswith("ly"):
        return False
    plural_verb = last.word.endswith("s") and not ARTICLES.isdisjoint(words[end + 1 : end + 2])  # "vets treat the ..."
    return not _verb(span, end) and not plural_verb


CHECKS = (_changed, _statement, _left, _right)
