"""The genmesh command against services that answer at once: odd inputs and outputs end in a sentence, never a traceback."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from genmesh.cli import _sources, main
from genmesh.v1 import (
    diffusion_pb2,
    diffusion_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    rag_pb2,
    rag_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

GENMESH = str(Path(sys.executable).parent / "genmesh")
ODD = "é\u2028:smile:[red]👩\x0b\\"


class Services(
    tokenization_pb2_grpc.TokenizationServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
    generation_pb2_grpc.GenerationServiceServicer,
    diffusion_pb2_grpc.DiffusionServiceServicer,
    rag_pb2_grpc.RagServiceServicer,
    models_pb2_grpc.ModelServiceServicer,
):
    def __init__(self) -> None:
        self.chats: list[list[str]] = []
        self.documents: list[rag_pb2.Document] = []
        self.answers = ["hello"]

    def Encode(self, request, context):
        text = request.texts[0]
        sequence = tokenization_pb2.TokenSequence(ids=[1], tokens=[text], start_offsets=[0], end_offsets=[len(text)])
        return tokenization_pb2.EncodeResponse(sequences=[sequence])

    def Embed(self, request, context):
        def result(text: str) -> embedding_pb2.EmbeddingResult:
            if not text:
                return embedding_pb2.EmbeddingResult(error={"reason": "INPUT_EMPTY", "message": "is empty"})
            return embedding_pb2.EmbeddingResult(embedding={"values": [1.0]})

        return embedding_pb2.EmbedResponse(results=[result(text) for text in request.inputs], dimension=1)

    def StreamChat(self, request, context):
        self.chats.append([f"{m.role}: {m.content}" for m in request.messages])
        yield generation_pb2.StreamChatResponse(text=self.answers[(len(self.chats) - 1) % len(self.answers)])
        yield generation_pb2.StreamChatResponse(usage={"input_tokens": 1})

    def StreamGenerateImage(self, request, context):
        image = {"image": {"data": b"PNG", "width": 1, "height": 1}}
        yield diffusion_pb2.StreamGenerateImageResponse(image=image)

    def UpscaleImage(self, request, context):
        return diffusion_pb2.UpscaleImageResponse(image={"data": request.image, "width": 2, "height": 2})

    def Ingest(self, request_iterator, context):
        for request in request_iterator:
            self.documents.append(request.document)
            yield rag_pb2.IngestResponse(ingested={"document_id": request.document.id, "passage_count": 1})

    def Retrieve(self, request, context):
        passage = {"number": 1, "document_id": ODD, "text": ODD, "metadata": {"a": ODD}}
        return rag_pb2.RetrieveResponse(passages=[passage])

    def StreamAnswer(self, request, context):
        self.chats.append([*(f"{m.role}: {m.content}" for m in request.history), request.question])
        yield rag_pb2.StreamAnswerResponse(text={"text": ODD if request.question == "x" else self.answers[0]})
        yield rag_pb2.StreamAnswerResponse(summary={})

    def Reindex(self, request, context):
        yield rag_pb2.ReindexResponse(result={"model_revision": ODD})

    def ListModels(self, request, context):
        return models_pb2.ListModelsResponse(models=[{"name": ODD}])


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def error(self) -> dict:
        """The error of a command with --json, the only thing on standard error."""
        return json.loads(self.err)["error"]


@pytest.fixture(scope="module")
def services() -> Services:
    return Services()


@pytest.fixture(scope="module")
def target(services: Services) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    for module in (
        tokenization_pb2_grpc, embedding_pb2_grpc, generation_pb2_grpc, diffusion_pb2_grpc, rag_pb2_grpc, models_pb2_grpc
    ):  # fmt: skip
        (add,) = (getattr(module, name) for name in dir(module) if name.startswith("add_"))
        add(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def run(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENMESH_TARGET", target)

    def command(arguments: str, given: bytes | None = b"") -> Done:
        """``given``: standard input; closed if None."""
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["genmesh", *shlex.split(arguments)])
            patch.setattr(sys, "stdin", None if given is None else io.TextIOWrapper(io.BytesIO(given), "utf-8"))
            with pytest.raises(SystemExit) as end:
                main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture
def shell(target: str) -> Callable[..., Done]:
    def command(arguments: str, given: bytes = b"", **environment: str) -> Done:
        """``arguments``: as in a shell, with redirections."""
        done = subprocess.run(
            ["bash", "-c", f"{GENMESH} {arguments}"],
            env=os.environ | {"GENMESH_TARGET": target} | environment,
            input=given,
            capture_output=True,
            check=False,
        )
        found = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in found.err
        assert "Exception ignored" not in found.err
        return found

    return command


@pytest.mark.parametrize("output", ["/nope/x.png", ".", "''"])
@pytest.mark.parametrize("command", ["image x", "upscale image.png"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(run, tmp_path, command, output) -> None:
    (tmp_path / "image.png").write_bytes(b"x")
    # Nobody answers there: the refusal comes first.
    done = run(f"--target 127.0.0.1:1 {command} -o {output}")
    assert done.code == 2
    assert "director" in done.err
    error = run(f"--target 127.0.0.1:1 {command} -o {output} --json").error
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.mark.parametrize("command", ["image x", "upscale image.png"])
def test_a_full_disk_is_told(run, tmp_path, command) -> None:
    (tmp_path / "image.png").write_bytes(b"x")
    done = run(f"{command} -o /dev/full")
    assert (done.code, "/dev/full: No space left" in done.err) == (1, True)
    assert run(f"{command} -o /dev/full --json").error["reason"] == "IO_FAILED"
    assert run(f"{command} -o out.png").code == 0
    assert (tmp_path / "out.png").read_bytes()


@pytest.mark.parametrize("command", ["ask", "chat", "embed", "tokens", "image", "search"])
def test_closed_input(run, command) -> None:
    done = run(command, None)
    assert (done.code, "pipe it in" in done.err) == (2, True)
    assert "pipe it in" in run(f"{command} --json", None).error["message"]


def test_closed_streams(shell) -> None:
    done = shell("models >&-")
    assert (done.code, "standard output is closed" in done.err) == (1, True)
    assert shell("models --json >&-").error["reason"] == "IO_FAILED"
    assert "pipe it in" in shell("tokens <&-").err
    done = shell("tokens x <&- 2>&-")
    assert (done.code, "x" in done.out) == (0, True)
    done = shell("tokens x --nope --json 2>&-")
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("command", ["models", "status --json", "chat hi --json", "chat hi", "--help"])
def test_full_output(shell, command) -> None:
    done = shell(f"{command} >/dev/full")
    assert (done.code, "standard output: No space left" in done.err) == (1, True)
    if "--json" in command:
        assert done.error["reason"] == "IO_FAILED"


def test_an_encoding_that_lacks_a_character(shell) -> None:
    done = shell("tokens 'é👩'", PYTHONIOENCODING="ascii")
    assert done.code == 1
    assert "encoding ascii" in done.err
    done = shell("tokens 'é👩' --json", PYTHONIOENCODING="ascii")
    assert json.loads(done.out)["sequences"][0]["tokens"] == ["é👩"]
    assert "no ASCII" in shell("tokens", "é".encode(), PYTHONIOENCODING="ascii").err


def test_only_regular_files_of_some_size_are_read(run, shell, tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo.md")
    for command in ("upscale /dev/zero", "upscale fifo.md", "--ca fifo.md models"):
        done = run(command)
        assert (done.code, "is no regular file" in done.err) == (1, True)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)
    assert "large.png: is larger than 64 MiB" in run("upscale large.png").err
    assert "is larger than 64 MiB" in shell("tokens </dev/zero").err


def test_documents_that_cannot_be_sent_fail_alone(run, tmp_path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "most.md").write_bytes(b"a" * 16 * 2**20)
    (folder / "large.md").write_bytes(b"a" * (16 * 2**20 + 1))
    (folder / "bytes.md").write_bytes(b"\xff")
    (folder / "good.md").write_bytes(b"\xef\xbb\xbfgood")
    os.mkfifo(folder / "fifo.md")
    (folder / os.fsdecode(b"name\xff.md")).write_text("good")
    done = run("ingest documents")
    assert done.code == 1
    assert "2 documents, 2 passages, 3 failed" in done.out
    assert "large.md: is larger than 16 MiB" in done.err
    assert "fifo.md: is no regular file" in run("ingest documents/fifo.md").err
    done = run("ingest documents --json")
    assert (done.code, done.err) == (1, "")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(e["ingested"]["document_id"] for e in events if "ingested" in e) == ["good.md", "most.md"]
    failed = {e["failed"]["document_id"] for e in events if "failed" in e}
    assert failed == {"large.md", "bytes.md", "name\\udcff.md"}


def test_a_folders_documents_are_its_text_files(run, tmp_path) -> None:
    for name in ("a.md", "UP.MD", "b/c.TXT", "d.markdown", ".hidden.md", ".git/e.md", "f.png", "folder.md/g.txt"):
        file = tmp_path / "documents" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text")
    (tmp_path / "documents" / "gone.md").symlink_to("nowhere.md")
    done = run("ingest documents --json")
    events = [json.loads(line) for line in done.out.splitlines()]
    found = {e["ingested"]["document_id"] for e in events}
    assert (done.code, found) == (0, {"a.md", "UP.MD", "b/c.TXT", "d.markdown", "folder.md/g.txt"})


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("x", "a.md"), ("---\nsource: ACME\n---\nx", None), ("---\na: 1\nsource : b\n---\n", None),
        ("---\na: 1\n---\nsource: x\n", "a.md"), ("source: x", "a.md"), ("---\nresource: x\n---\n", "a.md"),
    ],
)  # fmt: skip
def test_a_heads_own_source_stands(run, tmp_path, services, text, source) -> None:
    (tmp_path / "a.md").write_text(text)
    assert run("ingest a.md").code == 0
    fields = services.documents[-1].metadata.fields
    assert (fields["source"].string_value if "source" in fields else None) == source


def test_lines_end_at_line_feeds_only(run) -> None:
    given = "a\u2028b\x0cc\x85d\re\r\n\r\n f \n\nlast".encode()
    results = json.loads(run("embed --json", given).out)["results"]
    assert len(results) == 3
    assert json.loads(run("tokens --json", b"a\rb\r\n").out)["sequences"][0]["tokens"] == ["a\rb\r\n"]


def test_a_text_that_is_not_embedded_fails_the_command(run) -> None:
    for option in ("", "--json"):
        assert run(f"embed x {option}").code == 0
        done = run(f"embed x '' {option}")
        assert done.code == 1
        assert "is empty" in done.out


@pytest.mark.parametrize("timeout", ["inf", "nan", "-1", "1e12"])
@pytest.mark.parametrize("command", ["tokens x", "reindex", "status"])
def test_timeouts_that_are_none(run, command, timeout) -> None:
    done = run(f"{command} --timeout {timeout} --json")
    assert done.code == 1
    assert done.error["field_violations"][0]["field"] == "timeout"
    assert "Error: timeout" in run(f"{command} --timeout {timeout}").err


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("tokens --nope", 2, "INVALID_REQUEST"),
        ("nope", 2, "INVALID_REQUEST"),
        ("tokens \udcff", 2, "INVALID_REQUEST"),
        ("image x --size 5", 2, "INVALID_REQUEST"),
        ("search x -k 99999999999", 1, "INVALID_REQUEST"),
        ("--api-key é models", 1, "INVALID_REQUEST"),
        ("--target '' models", 1, "INVALID_REQUEST"),
        ("--target 127.0.0.1:1 models", 1, "CONNECTION_LOST"),
    ],
)
def test_an_error_is_one_json_object(run, arguments, code, reason) -> None:
    done = run(f"{arguments} --json")
    assert (done.code, done.error["reason"], done.out) == (code, reason, "")
    assert set(done.error) == {"code", "reason", "message", "field_violations", "request_id"}


@pytest.mark.parametrize(
    "command",
    ["ask x", "chat x", "ingest odd.md", "reindex", "search x", f"embed '{ODD}'", f"tokens '{ODD}'", "image x",
     "upscale odd.md", "models", "status"],
)  # fmt: skip
def test_json_of_odd_inputs_is_one_object_a_line(run, tmp_path, command) -> None:
    (tmp_path / "odd.md").write_text(ODD)
    lines = run(f"{command} --json").out.split("\n")
    assert lines.pop() == ""
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_texts_are_shown_as_they_are(run) -> None:
    assert "[red]:smile:" in run("tokens '[red]:smile:'").out


def on_a_terminal(target: str, typed: bytes, *arguments: str) -> bytes:
    """What the command prints to a pipe if a terminal is its standard input."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [GENMESH, "--target", target, *arguments], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.write(ours, typed)
    out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, err
    return out


def test_questions_are_sent_with_the_turns_before_them(target, services) -> None:
    services.answers, services.chats = ["yes"], []
    out = on_a_terminal(target, b"one\ntwo\n\nthree\n", "ask", "--json")  # the empty line ends it
    assert out.count(b'"summary"') == 2
    assert services.chats == [["one"], ["user: one", "assistant: yes", "two"]]
    services.answers, services.chats = [" "], []
    on_a_terminal(target, b"one\ntwo\n\x04", "ask", "--json")
    assert services.chats == [["one"], ["two"]]


def test_an_empty_answer_leaves_no_trace_in_the_conversation(target, services) -> None:
    services.answers, services.chats = ["", " \n", "yes"], []
    out = on_a_terminal(target, b"one\ntwo\nthree\nfour\n\x04", "chat", "--system", "s", "--json")
    assert out.count(b'"usage"') == 4
    assert services.chats == [
        ["system: s", "user: one"],
        ["system: s", "user: two"],
        ["system: s", "user: three"],
        ["system: s", "user: three", "assistant: yes", "user: four"],
    ]


def test_below_a_short_answer_stands_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    passages = {1: rag_pb2.Passage(number=1, document_id="a.md", headings=["Logs"])}
    citations = [rag_pb2.Citation(number=1, quote="Logs are kept for seven years [3].")]
    _sources(citations, passages, "seven years [1]")
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[1] a.md > Logs",
        "“Logs are kept for seven years [3].”",
    ]
    _sources(citations, passages, r"“Logs are kept for seven years \[3\].” [1]")
    assert capsys.readouterr().out.split() == ["[1]", "a.md", ">", "Logs"]
