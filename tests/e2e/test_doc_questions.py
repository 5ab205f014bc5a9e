"""Forty handwritten questions over the project's own documents: the whole path cites the passage that answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from genmesh import Client

from tests.conftest import ROOT

QUESTIONS = [json.loads(line) for line in (ROOT / "tests" / "data" / "doc_questions.jsonl").read_text().splitlines()]
DOCUMENTS = sorted(
    {q["document"] for q in QUESTIONS} | {"README.md", "DECISIONS.md", "docs/models.md", "docs/performance.md"}
)
COLLECTION = "own-documents"
LEAST = 0.65


@pytest.fixture(scope="module")
def ingested(client: Client) -> Iterator[Client]:
    requests = [
        {"collection": COLLECTION, "document": {"id": path, "text": (ROOT / path).read_text()}} for path in DOCUMENTS
    ]
    list(client.rag.Ingest(iter(requests)))
    yield client
    client.vector_search.DeleteCollection({"collection": COLLECTION})


def flat(text: str) -> str:
    """White space and Markdown's marks apart: passages are plain text."""
    return " ".join(text.replace("`", "").replace("*", "").split())


@pytest.mark.timeout(600)
def test_the_passage_that_answers_is_cited(ingested: Client, tmp_path: Path) -> None:
    assert len(QUESTIONS) == 40
    wrong, quoted = [], 0
    for asked in QUESTIONS:
        answer = ingested.rag.Answer({"question": asked["question"], "collection": COLLECTION}, timeout=120)
        passages = {passage.id: passage for passage in answer.passages}
        cited = [passages[citation.passage_id] for citation in answer.citations]
        right = answer.answered and any(
            p.document_id == asked["document"] and flat(asked["contains"]) in flat(p.text) for p in cited
        )
        # Whatever is cited is word for word in its passage.
        assert all(flat(c.quote) in flat(passages[c.passage_id].text) for c in answer.citations)
        quoted += any(
            flat(c.quote) in flat(asked["contains"]) or flat(asked["contains"]) in flat(c.quote)
            for c in answer.citations
        )
        if not right:
            wrong.append(f"{asked['question']} -> {answer.text!r}")
    print(f"citation right {40 - len(wrong)} of 40, the very sentence in {quoted}\n" + "\n".join(wrong))
    assert 40 - len(wrong) >= LEAST * 40, "\n".join(wrong)
