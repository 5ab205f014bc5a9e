"""Which generated sentences go out: what a passage supports, which citation they get, and what is quoted instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rag.grounding import (
    RELEVANCE_MARGIN,
    Grounded,
    Source,
    answerability,
    covered,
    ground,
    linked,
    located,
    overlap,
    parse_generated,
    quote,
    relevance,
    supports,
)
from services.rag.words import CITATION

PUMP = "The main pump of Aurora Station runs at 5.5 bar and was built by Nordwerk in 1984."


@pytest.mark.parametrize(
    "sentence",
    [
        PUMP,
        "the MAIN pump of Aurora Station runs at 5.5 bar and was built by Nordwerk in 1984",
        "Main pump of Aurora Station, runs at 5.5 bar, and was built by Nordwerk in 1984.",
    ],
)
def test_a_sentence_in_the_sources_own_words_is_supported(sentence: str) -> None:
    assert supports(sentence, PUMP)


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        # A number or a name that is not there.
        ("The main pump runs at 5.6 bar.", PUMP),
        ("The main pump runs at 5 bar.", PUMP),
        ("The main pump runs at 55 bar.", PUMP),
        ("The main pump was built by Nordwerk in 1985.", PUMP),
        ("The main pump was built by Sudwerk in 1984.", PUMP),
        ("The main pump of Borealis Station runs at 5.5 bar.", PUMP),
        ("Output rose by 10.", "Output rose by 10%."),
        ("It costs 1,000 crowns.", "It costs 10,000 crowns."),
        # A word of meaning that is not there.
        ("The main pump runs quietly at 5.5 bar.", PUMP),
        ("The spare pump runs at 5.5 bar.", PUMP),
        # The right words in wrong roles.
        ("Bob paid Alice.", "Alice paid Bob."),
        ("Nordwerk built the main pump of Aurora Station.", PUMP),
        ("The valve feeds the pump.", "The pump feeds the valve."),
        ("12 of 10 crates broke.", "10 of 12 crates broke."),
        # A turn of meaning, dropped or added.
        ("The valve is closed at night.", "The valve is not closed at night."),
        ("The valve is closed at night.", "The valve isn't closed at night."),
        ("The valve is closed at night.", "The valve is never closed at night."),
        ("The valve is not closed at night.", "The valve is closed at night."),
        ("Staff may enter.", "Only staff may enter."),
        ("The alarm rings.", "The alarm rings unless it is muted."),
        ("The alarm rings.", "The alarm rings if it is armed."),
        ("The pump runs with oil.", "The pump runs without oil."),
        ("The museum is not open on Monday.", "The museum is not open on Sunday but is open on Monday."),
        ("The pump started.", "The pump failed to start."),
        ("Anna is the director.", "Anna reports to Tom, who is the director."),
        ("The train goes to Oslo from Bergen.", "The train goes from Oslo to Bergen."),
        ("Guests must leave.", "Guests may leave."),
        ("The dog has bitten the man.", "The dog was bitten by the man."),
        ("It was 40 °C.", "It was -40 °C."),
        ("It costs €50.", "It costs $50."),
        ("Values > 5 fail.", "Values < 5 fail."),
        ("He is caring.", "He is car."),
        ("Entry is free.", "Entry is free, provided that you book."),
        # Nothing said.
        ("", PUMP),
        ("It is.", PUMP),
        ("The main pump runs.", ""),
    ],
)
def test_any_other_sentence_is_not(sentence: str, source: str) -> None:
    assert not supports(sentence, source)


# The citation


def source(number: int, sentence: str, likely: float = 0.9) -> Source:
    return Source(number, sentence, likely)


VALVE = "The valve is closed at night."


def test_a_supported_sentence_goes_out_as_the_models_own_with_its_citation() -> None:
    valve = source(2, VALVE)
    assert ground("Valve is closed at night.", [2], [source(1, PUMP), valve]) == Grounded(
        "Valve is closed at night. [2]", valve, True
    )


@pytest.mark.parametrize("cited", [[1], [], [7], [1, 3]])
def test_a_wrong_or_missing_citation_is_set_right(cited: list[int]) -> None:
    found = ground(VALVE, cited, [source(1, PUMP), source(2, VALVE), source(3, "Apples are red.")])
    assert found is not None
    assert found.text == f"{VALVE} [2]"
    assert found.source.number == 2


def test_the_cited_passage_comes_first_where_several_support_a_sentence() -> None:
    sources = [source(1, VALVE, 0.9), source(2, VALVE, 0.88), source(3, VALVE, 0.86)]
    found = [ground(VALVE, cited, sources) for cited in ([2], [3, 2], [], [9])]
    assert [g and g.source.number for g in found] == [2, 2, 1, 1]


def test_an_unsupported_sentence_does_not_go_out() -> None:
    assert ground("The valve is open at night.", [2], [source(1, PUMP), source(2, VALVE)]) is None
    assert ground(VALVE, [1], []) is None


def test_words_of_two_sentences_do_not_support_one_together() -> None:
    sources = [source(1, "The pump is red."), source(1, "The valve is open at noon.")]
    assert ground("The pump is open at noon.", [1], sources) is None


def test_a_true_sentence_far_off_the_question_does_not_go_out() -> None:
    best, near = source(1, PUMP, 0.9), 0.9 - RELEVANCE_MARGIN
    assert ground(VALVE, [2], [best, source(2, VALVE, near - 0.01)]) is None
    assert ground(VALVE, [2], [best, source(2, VALVE, near + 0.01)]) is not None


# The short answer

LOGS = "Audit logs are kept for seven years in the archive."


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Seven years", "Seven years [2]"),
        ("Seven years.", "Seven years [2]"),
        ("for seven years", "for seven years [2]"),
        ("In the archive.", "In the archive. [2]"),
        (LOGS, f"{LOGS} [2]"),
    ],
)
def test_a_short_answer_goes_out_and_cites_the_whole_sentence(said: str, text: str) -> None:
    logs = source(2, LOGS)
    assert ground(said, [2], [source(1, PUMP), logs]) == Grounded(text, logs, True)


@pytest.mark.parametrize("said", ["Seven", "years", "Eight years", "Logs are kept", "archive seven years", "in the"])
def test_a_part_that_says_something_else_does_not_go_out(said: str) -> None:
    assert ground(said, [2], [source(1, PUMP), source(2, LOGS)]) is None


def test_a_short_answer_in_several_sources_cites_the_cited_then_the_most_relevant() -> None:
    sources = [source(1, LOGS, 0.9), source(2, "Backups are kept for seven years.", 0.88), source(3, LOGS, 0.85)]
    found = [ground("Seven years", cited, sources) for cited in ([2], [3, 7], [], [9])]
    assert [g and g.source.number for g in found] == [2, 3, 1, 1]


def test_a_source_that_says_the_same_comes_before_one_that_says_more() -> None:
    sources = [source(1, "The archive: seven years.", 0.9), source(2, "Seven years.", 0.85)]
    found = ground("Seven years.", [1], sources)
    assert found is not None
    assert found.text == "Seven years. [2]"


def test_a_short_answer_far_off_the_question_does_not_go_out() -> None:
    best, far = source(1, PUMP, 0.9), source(2, LOGS, 0.9 - RELEVANCE_MARGIN - 0.01)
    assert ground("seven years", [2], [best, far]) is None


def test_a_short_answer_keeps_or_leaves_out_a_sources_own_numbers() -> None:
    salt = source(1, "The sauce consists of salt [3] and oil.")
    for said, text in (("salt (3) and oil", "salt \\[3\\] and oil [1]"), ("salt and oil", "salt and oil [1]")):
        assert ground(said, [1], [salt]) == Grounded(text, salt, True)


def test_a_stop_within_the_sentence_stays() -> None:
    found = ground("at 5 p.m.", [1], [source(1, "The office closes at 5 p.m. and the gate later.")])
    assert found is not None
    assert found.text == "at 5 p.m. [1]"


# The quotation


def test_the_most_relevant_sentence_is_quoted() -> None:
    best = source(2, VALVE, 0.8)
    assert quote([source(1, PUMP, 0.7), best]) == Grounded(f"“{VALVE}” [2]", best, False)
    assert quote([]) is None


def test_a_sentence_that_generated_words_are_a_part_of_is_quoted() -> None:
    maybe = source(1, "The valve may be closed at night.", 0.78)
    sources = [maybe, source(2, PUMP, 0.8)]
    assert ground("closed at night", [1], sources) is None
    assert located("closed at night", [1], sources) == Grounded("“The valve may be closed at night.” [1]", maybe, False)
    assert located("closed by night", [1], sources) is None
    assert (
        located("closed at night", [1], [source(1, maybe.sentence, 0.5), source(2, PUMP, 0.8)]) is None
    )  # far from the best
    assert located("", [], sources) is None


# Relevance


def test_overlap_counts_words_found_and_those_of_the_headings_half() -> None:
    assert overlap("Which pump runs?", PUMP, "") == 1.0
    assert overlap("Which pump leaks?", PUMP, "") == 0.5
    assert overlap("Which pump leaks?", PUMP, "Leaks and floods") == 0.75
    assert overlap("Leaks?", PUMP, "") == 0.0
    assert overlap("What is it?", PUMP, "what is it") == 0.0


@pytest.mark.parametrize("other", [0.0, 0.5, 1.0])
def test_relevance_grows_with_both_scores_and_stays_between_0_and_1(other: float) -> None:
    scores = (-1.0, 0.0, 0.5, 1.0, 1.2)
    for found in (
        [relevance("Which pump runs?", PUMP, "", score, other) for score in scores],
        [relevance("Which pump runs?", PUMP, "", other, score) for score in scores],
    ):
        assert found == sorted(found)
        assert found[0] == found[1] < found[2] < found[3] == found[4]
        assert 0.0 <= found[0] <= found[4] <= 1.0
    # Of two sentences that are alike in meaning the one with the question's words comes first.
    assert relevance("Which pump runs?", PUMP, "", 0.5, other) > relevance("Which mill runs?", PUMP, "", 0.5, other)


def test_least_and_greatest_relevance() -> None:
    assert relevance("Green cheese?", PUMP, "", -1.0, -1.0) == 0.0
    assert relevance("Which pump runs?", PUMP, "", 1.0, 1.0) == pytest.approx(1.0)


# Whether a passage answers


def test_covered_counts_the_words_of_the_question_in_the_passage_and_its_headings() -> None:
    assert covered("How many pumps run?", PUMP, "") == 1.0  # by stems
    assert covered("Which pump leaks?", PUMP, "") == 0.5
    assert covered("Which pump leaks?", PUMP, "Leaks and floods") == 1.0
    assert covered("How many?", "many of them", "") == 1.0  # where all words are vague they count
    assert covered("What is it?", PUMP, "what is it") == 0.0


@given(st.floats(0, 1), st.sampled_from(["Which pump runs?", "Which pump leaks?", "Leaks?", "?"]))
def test_answerability_grows_with_relevance_and_with_the_words_found(relevant: float, question: str) -> None:
    found = answerability(question, relevant, PUMP, "")
    assert 0.0 <= found <= 1.0
    assert found <= answerability(question, min(1.0, relevant + 0.1), PUMP, "")
    assert found <= answerability(question, relevant, f"{PUMP} It leaks.", "")
    assert answerability("Which pump runs?", 1.0, PUMP, "") == pytest.approx(1.0)


# What belongs together

MILL = source(1, "The mill stands by the lake.", 0.8)


@pytest.mark.parametrize(
    ("following", "question", "together"),
    [
        (source(1, "It was sold to Ada Roth.", 0.7), "Who was the mill sold to?", True),
        (source(1, "Its owner sold it.", 0.7), "Who sold the mill?", True),
        (
            source(1, "It was sold to Ada Roth.", 0.7),
            "Where does the mill stand?",
            False,
        ),  # nothing more of the question
        (source(1, "Ada Roth sold it.", 0.7), "Who sold the mill?", False),  # begins with another thing
        (source(2, "It was sold to Ada Roth.", 0.7), "Who was the mill sold to?", False),  # another passage
    ],
)
def test_a_sentence_that_goes_on_with_a_pronoun_belongs_to_the_one_before(
    following: Source, question: str, together: bool
) -> None:
    assert linked(question, [MILL, following], MILL) == ([MILL, following] if together else [MILL])
    assert linked(question, [following, MILL], MILL) == [MILL]


# What the model wrote


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", []),
        ("  \n", []),
        ("[1]", []),
        ("The pump runs.", [("The pump runs.", [])]),
        ("The pump runs [1].", [("The pump runs.", [1])]),
        ("The pump runs[1].", [("The pump runs.", [1])]),
        ("The pump runs. [1]", [("The pump runs.", [1])]),
        ("The pump runs.[1]", [("The pump runs.", [1])]),
        ("The pump runs [1][2] [13].", [("The pump runs.", [1, 2, 13])]),
        ("The pump runs. [1]\n[2]", [("The pump runs.", [1, 2])]),
        ("The pump runs [1]. The valve is closed [2].", [("The pump runs.", [1]), ("The valve is closed.", [2])]),
        ("The pump runs. [1]\nThe valve is closed. [2]", [("The pump runs.", [1]), ("The valve is closed.", [2])]),
        ("X is 5. [1] Y is 6. [2]", [("X is 5.", [1]), ("Y is 6.", [2])]),
        ("[3] The pump runs.", [("The pump runs.", [3])]),
        ("The pump [1] runs", [("The pump runs", [1])]),
        ("It runs [a] and [1234].", [("It runs [a] and [1234].", [])]),
    ],
)
def test_parse_generated(text: str, parsed: list[tuple[str, list[int]]]) -> None:
    assert parse_generated(text) == parsed


def test_numbers_in_brackets_of_a_source_are_no_citations() -> None:
    sentence = "Salt [1, 2] raises it, see array[2] and [3]."
    salt = source(1, sentence)
    found = quote([salt])
    assert found is not None
    assert found.text == "“Salt \\[1, 2\\] raises it, see array\\[2\\] and \\[3\\].” [1]"
    assert found.source.sentence == sentence
    assert CITATION.findall(found.text) == ["1"]
    # The model reads "(1, 2)" and may leave out what refers to sources.
    for said in ("Salt (1, 2) raises it, see array (2) and (3).", "Salt raises it, see array[2] and."):
        grounded = ground(said, [1], [salt])
        assert grounded is not None
        assert CITATION.findall(grounded.text) == ["1"]
        assert "(" not in grounded.text  # the source's own brackets
    assert ground("Salt raises it, see array and.", [1], [salt]) is None
