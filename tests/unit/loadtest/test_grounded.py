"""What the benchmark of grounded answers counts."""

from __future__ import annotations

from genmesh.v1 import rag_pb2 as pb

from loadtest.grounded import Asked, Given, figures

LOGS = "Audit logs are kept for seven years."


def given(text: str, grounding: int, document: str = "a", quote: str = LOGS, left_out: bool = False) -> Given:
    asked = Asked("How long are logs kept?", ["seven years", "the 7 years"], "a", left_out)
    citations = [pb.Citation(document_id=document, quote=quote)] if quote else []
    return Given(asked, text, grounding, citations, document, 0.25)


def test_figures() -> None:
    none = pb.GROUNDING_NO_ANSWER
    found = figures(
        [
            given("7 years [1]", pb.GROUNDING_SUPPORTED),
            given("Audit logs [1]", pb.GROUNDING_SUPPORTED),
            given(f"“{LOGS}” [1]", pb.GROUNDING_QUOTATION, document="b"),
            given("The passages do not answer the question.", none, quote=""),
            given("The passages do not answer the question.", none, quote="", left_out=True),
            given("seventy-seven years [1]", pb.GROUNDING_SUPPORTED, left_out=True),
        ]
    )
    assert found == {
        "questions with their paragraph": 4,
        "right passage ranked first": 75.0,
        "right document cited": 50.0,
        "right document cited, of the answers": 66.7,
        "gold answer in the reply": 50.0,
        "gold answer in the reply or the sentences that it cites": 75.0,
        "reply in the model's own words": 50.0,
        "wrongly abstained": 25.0,
        "questions without their paragraph": 2,
        "abstained": 50.0,
        "TTFT of the answers, median": 250.0,
        "time to say that nothing answers, median": 250.0,
    }
