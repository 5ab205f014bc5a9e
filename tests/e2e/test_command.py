"""The genmesh command, as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from genmesh import Client
from PIL import Image

GENMESH = str(Path(sys.executable).parent / "genmesh")


@pytest.fixture(scope="module")
def run(running, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("user")

    def command(
        *arguments: str | bytes, fails: bool = False, key: str | None = None, stdin: str | bytes | None = None
    ) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GENMESH_")}
        environment |= {"GENMESH_TARGET": running.target, "GENMESH_API_KEY": running.alpha if key is None else key}
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [GENMESH, *arguments], env=environment, cwd=folder, capture_output=True, input=given, check=False
        )
        printed, told = done.stdout.decode(), done.stderr.decode()
        assert (done.returncode != 0) == fails, printed + told
        return told if fails else printed

    command.folder = folder  # type: ignore[attr-defined]
    return command


@pytest.fixture(scope="module")
def ingested(run, client: Client) -> Iterator[None]:
    documents = run.folder / "documents"
    documents.mkdir()
    (documents / "harbour.md").write_text("# Harbour\n\nThe ferry to Osk leaves at 06:15. A ticket costs 9 crowns.\n")
    (documents / "gear.txt").write_text("The anchor weighs 80 kilograms.")
    assert "2 documents, 2 passages" in run("ingest", "documents", "-c", "port")
    yield
    client.vector_search.DeleteCollection({"collection": "port"})


def test_ask_prints_the_answer_with_its_source(run, ingested) -> None:
    printed = run("ask", "When does the ferry to Osk leave?", "-c", "port")
    assert "06:15" in printed
    assert "[1] harbour.md > Harbour" in printed
    assert "do not answer" in run("ask", "Who painted the ceiling?", "-c", "port")


def test_files_of_one_name_in_two_folders_are_two_documents(run, client: Client) -> None:
    for folder, text in (("a", "Alpha costs 10 crowns."), ("b", "Beta costs 20 crowns.")):
        (run.folder / "twice" / folder).mkdir(parents=True)
        (run.folder / "twice" / folder / "What's new.md").write_text("\ufeff" + text, encoding="utf-8")
    assert "2 documents, 2 passages" in run("ingest", "twice", "-c", "twice")
    assert "2 documents, 2 passages" in run("ingest", "twice", "-c", "twice")
    for name, document in (("Alpha", "a/What's new.md"), ("Beta", "b/What's new.md")):
        printed = run("search", f"What does {name} cost?", "-c", "twice", "--json")
        found = json.loads(printed)["passages"]
        assert found[0]["document_id"] == document
        assert found[0]["text"].startswith(name)
        assert len(found) == 2
    printed = run("ingest", "twice/a/What's new.md", "twice/b/What's new.md", "-c", "twice", fails=True)
    assert "would both be the document" in " ".join(printed.replace("│", " ").split())
    client.vector_search.DeleteCollection({"collection": "twice"})


def test_reindex_makes_vectors_anew(run, client: Client, ingested) -> None:
    revision = client.embedding.Embed({"inputs": ["x"]}).model_revision
    assert f"2 entities, all with vectors of {revision} already" in run("reindex", "port")
    client.vector_search.CreateCollection({"collection": {"name": "old", "dimension": 2}})
    rows = [{"id": str(i), "vector": [1, i], "text": f"The mast is {i} m high."} for i in range(100)]
    client.vector_search.Upsert({"collection": "old", "entities": rows})
    events = [json.loads(line) for line in run("reindex", "old", "--json").splitlines()]
    assert events[0]["progress"] == {"entities_done": "64", "entities_total": "100"}
    assert events[-1]["result"]["model_revision"] == revision
    assert events[-1]["result"]["recomputed_count"] == "100"
    assert client.vector_search.GetCollection({"collection": "old"}).collection.dimension == 384
    assert "17 m" in run("search", "How high is mast 17?", "-c", "old", "-k", "100")
    assert "there is no model 'nothing'" in run("reindex", "old", "--model", "nothing", fails=True)
    client.vector_search.DeleteCollection({"collection": "old"})


def test_search_embed_tokens_models_status(run, ingested) -> None:
    assert "80 kilograms" in run("search", "How heavy is the anchor?", "-c", "port")
    assert "384 values" in run("embed", "a text")
    assert "hello" in run("tokens", "hello world", "--model", "embedder")
    assert "openvino-genai" in run("models")
    assert run("status").count("SERVING") == 7


def test_eval_tells_how_well_questions_are_answered(run, ingested) -> None:
    lines = [
        {"question": "When does the ferry to Osk leave?", "relevant": ["harbour.md"], "answers": ["06:15"]},
        {"question": "How much does the anchor weigh?", "relevant": {"gear.txt": 2}, "answers": ["80 kilograms"]},
        {"question": "Who painted the ceiling?"},
    ]
    (run.folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    printed = run("eval", "port", "questions.jsonl", "--clients", "2", "--details", "details.jsonl")
    assert re.search(r"nDCG@10 of the documents +1\.000", printed)
    assert re.search(r"not answerable: abstained +100\.0%", printed)
    found = json.loads(run("eval", "port", "questions.jsonl", "--json"))
    assert (found["questions"], found["answerable"], found["recall_at_4"], found["relevant_cited"]) == (3, 2, 1, 1)
    assert found["gold_in_answer"] == 1
    details = [json.loads(line) for line in (run.folder / "details.jsonl").read_text().splitlines()]
    assert [one["found"][0] for one in details[:2]] == ["harbour.md", "gear.txt"]
    assert "06:15" in details[0]["answer"]
    alone = json.loads(
        run("eval", "port", "questions.jsonl", "--json", "--no-answers", "--mode", "bm25", "--filter", "x = 1")
    )
    assert (alone["recall_at_4"], "ttft_ms" in alone) == (0, False)
    (run.folder / "questions.jsonl").write_text('{"question": "x"}\nnonsense')
    assert "questions.jsonl: line 2" in run("eval", "port", "questions.jsonl", fails=True)
    (run.folder / "questions.jsonl").write_text('{"question": "x"}')
    assert "COLLECTION_NOT_FOUND" in run("eval", "nowhere", "questions.jsonl", fails=True)


def test_image_writes_a_png(run) -> None:
    assert "128 x 128" in run("image", "a red circle", "-o", "out.png", "--steps", "4", "--seed", "1")
    with Image.open(run.folder / "out.png") as image:
        assert image.size == (128, 128)


def test_chat_streams(run) -> None:
    assert run("chat", "Hello!", "--max-tokens", "8").strip()


@pytest.mark.parametrize(
    ("arguments", "given"), [(["tokens", b"a\xffb"], b""), (["embed"], b"a\xffb"), (["ask", b"\xff"], b"")]
)
def test_bytes_that_are_no_text_are_told_in_a_line(run, arguments: list[str | bytes], given: bytes) -> None:
    told = run(*arguments, fails=True, stdin=given)
    assert "UTF-8" in told or "surrogate" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "When does the ferry to Osk leave?", "-c", "port"],
        ["chat", "Hello!", "--max-tokens", "4"],
        ["ingest", "documents", "-c", "port"],
        ["search", "ferry", "-c", "port"],
        ["reindex", "port"],
        ["embed", "x"],
        ["tokens", "x"],
        ["image", "a red circle", "--steps", "2"],
        ["models"],
        ["status"],
    ],
)
def test_json_is_one_object_a_line(run, ingested, arguments: list[str]) -> None:
    lines = run(*arguments, "--json").splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_errors_are_one_clear_sentence(run) -> None:
    assert "API key is not known" in run("models", fails=True, key="gm_wrong")
    refused = run("image", "a red circle", "--steps", "500", fails=True)
    assert "steps: is 500; 1 to 200 are allowed" in refused
    assert "COLLECTION_NOT_FOUND" in run("ask", "x", "-c", "nowhere", fails=True)
    assert run("tokens", "-", stdin="piped in")
