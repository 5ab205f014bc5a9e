"""The ``genmesh`` command. Streams are shown as they come; ``--json`` prints one JSON object a message instead, and an
error as one JSON object on standard error."""

from __future__ import annotations

import enum
import errno
import io
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from genmesh import evaluation
from genmesh._services import MESSAGE_LIMIT, SERVICES, check_timeout
from genmesh.client import Client
from genmesh.errors import FailedPrecondition, GenmeshError, InvalidArgument
from genmesh.v1 import common_pb2, models_pb2, rag_pb2

app = typer.Typer(
    help="Talk to a Genmesh gateway.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
# A pipe has no width: a table must not be cut for it.
out = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
HISTORY = 20  # how many messages of a conversation are sent with a question
DOCUMENT_BYTES = 16 * 2**20  # the most that Ingest takes
# click's class, of which typer has a copy of its own or not.
UsageError: Any = typer.BadParameter.__mro__[1]


def _seconds(timeout: float) -> float:
    check_timeout(timeout)
    return timeout


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the work, not after it."""
    if path is None:
        return None
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written")
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a message.")]
Timeout = Annotated[float, typer.Option(help="Deadline in seconds.", callback=_seconds)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The PNG file to write.", callback=_writable)]


class _State:
    target = ""
    api_key = ""
    credentials: grpc.ChannelCredentials | None = None


@app.callback()
def _options(
    target: Annotated[str, typer.Option(envvar="GENMESH_TARGET", help="host:port of the gateway.")] = "127.0.0.1:8080",
    api_key: Annotated[str, typer.Option(envvar="GENMESH_API_KEY", help="The API key.")] = "",
    tls: Annotated[bool, typer.Option(envvar="GENMESH_TLS", help="Speak TLS; the system's authorities count.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="GENMESH_CA", help="Speak TLS; the PEM file's authorities count.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    _State.target, _State.api_key = target, api_key
    if tls or ca:
        _State.credentials = grpc.ssl_channel_credentials(_contents(ca, MESSAGE_LIMIT) if ca else None)


def _client() -> Client:
    return Client(_State.target, api_key=_State.api_key, credentials=_State.credentials)


def _print_json(message: Message) -> None:
    print(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None), flush=True)


def _progress(unit: str, as_json: bool) -> Progress:
    """A progress bar on standard error; none with ``--json``."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
    )  # fmt: skip
    return Progress(*columns, console=err, disable=as_json)


def _say(text: str) -> None:
    print(text, end="", flush=True)


def _stdin_or(value: str | None, what: str) -> str:
    if value is not None and value != "-":
        return value
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter(f"give {what}, or pipe it in")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline="\n")  # else a CR alone would end a line
    with _named("standard input"):
        text = sys.stdin.read(MESSAGE_LIMIT + 1)
        if len(text) > MESSAGE_LIMIT:
            raise _too_large(MESSAGE_LIMIT)
    return text


@contextmanager
def _named(file: str | Path) -> Iterator[None]:
    """Errors of reading and writing name no file."""
    try:
        yield
    except OSError as failure:
        failure.filename = str(file)
        raise


def _too_large(limit: int) -> OSError:
    return OSError(errno.EFBIG, f"is larger than {limit // 2**20} MiB")


def _contents(path: Path, limit: int) -> bytes:
    """The bytes of a regular file; a pipe or a device may have no end, or nobody who writes."""
    with _named(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise _too_large(limit)
    return data


class SearchBy(enum.Enum):
    """How passages are searched; by default as the server is set up."""

    DEFAULT = "default"
    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"

    @property
    def wire(self) -> str:
        return "SEARCH_MODE_UNSPECIFIED" if self is SearchBy.DEFAULT else f"SEARCH_MODE_{self.name}"


Mode = Annotated[SearchBy, typer.Option(help="How passages are searched: by vectors (dense), words (bm25) or both.")]
# The server's settings apply if these are left out.
Parents = Annotated[bool | None, typer.Option(help="Read the text around the passages, too.")]
Expand = Annotated[int | None, typer.Option(min=0, max=5, help="Search for this many reformulations, too.")]
Hyde = Annotated[bool | None, typer.Option(help="Search for a hypothetical answer, too (HyDE).")]


def _search_options(mode: SearchBy, parents: bool | None, expand: int | None, hyde: bool | None) -> dict[str, Any]:
    """The fields of a request that say how to search; None: the server's setting."""
    options = {"search_mode": mode.wire, "parents": parents, "expansions": expand, "hyde": hyde}
    return {name: value for name, value in options.items() if value is not None}


def _print_query(query: rag_pb2.GeneratedQuery) -> None:
    """Show what the generator wrote for the search."""
    for text in query.texts or [f"nothing ({query.skipped_reason})"]:
        err.print(f"[dim]{query.stage}: {escape(text)}[/dim]")


@app.command()
def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; a conversation on the terminal where left out.")
    ] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection to answer from.")] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Passages that the answer may rest on at most.")] = 0,
    filter: Annotated[str, typer.Option(help='A filter, such as: source = "handbook"')] = "",
    mode: Mode = SearchBy.DEFAULT,
    parents: Parents = None,
    expand: Expand = None,
    hyde: Hyde = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Answer a question from ingested documents, with citations that were checked.

    In a conversation a question may refer to earlier ones, such as "And when does it close?".
    """
    wanted = {
        "collection": collection,
        "top_k": top_k,
        "filter": filter,
        **_search_options(mode, parents, expand, hyde),
    }
    history: list[dict[str, str]] = []
    with _client() as client:

        def turn(text: str) -> None:
            request = {**wanted, "question": text, "history": history[-HISTORY:]}
            with client.rag.StreamAnswer(request, timeout=timeout) as events:
                answer = _answer(events, as_json)
            if answer.strip():
                history.extend([{"role": "user", "content": text}, {"role": "assistant", "content": answer}])

        _converse(question, "a question", turn)


def _answer(events: Iterator[rag_pb2.StreamAnswerResponse], as_json: bool) -> str:
    """Print an answer while it arrives; return its text."""
    begun, first = time.monotonic(), 0.0
    passages: dict[int, rag_pb2.Passage] = {}
    citations: list[rag_pb2.Citation] = []
    answer = ""
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "text":
            first = first or time.monotonic() - begun
            answer += event.text.text
        if as_json:
            _print_json(event)
        elif kind == "text":
            _say(event.text.text)
        elif kind == "query":
            _print_query(event.query)
        elif kind == "passages":
            passages = {p.number: p for p in event.passages.passages}
        elif kind == "citation":
            citations.append(event.citation)
        elif kind == "summary":
            print()
            _sources(citations, passages, answer)
            note = {2: "quoted from the passage", 3: "no passage answers"}.get(event.summary.grounding, "checked")
            usage = event.summary.usage
            total = time.monotonic() - begun  # here, as TTFT is
            err.print(
                f"[dim]{note}; TTFT {first * 1000:.0f} ms, total {total * 1000:.0f} ms, "
                f"{usage.input_tokens} tokens read, {usage.output_tokens} written[/dim]"
            )
    return answer


def _sources(citations: list[rag_pb2.Citation], passages: dict[int, rag_pb2.Passage], answer: str) -> None:
    """Where the answer comes from; below a short answer the sentences that it stands in."""
    answer = answer.replace(r"\[", "[").replace(r"\]", "]")  # brackets of a source's own
    for number in dict.fromkeys(c.number for c in citations):
        passage = passages[number]
        place = " > ".join([passage.document_id, *passage.headings])
        out.print(f"  [bold]\\[{number}][/bold] {escape(place)}")
        for quote in dict.fromkeys(c.quote for c in citations if c.number == number and c.quote not in answer):
            out.print(f"      [dim]“{escape(quote)}”[/dim]")


@app.command()
def chat(
    message: Annotated[
        str | None, typer.Argument(help="A message; a conversation on the terminal where left out.")
    ] = None,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    model: Annotated[str, typer.Option(help="The model.")] = "",
    adapter: Annotated[str, typer.Option(help="A LoRA adapter of the model.")] = "",
    max_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Chat with the generator."""
    messages = [{"role": "system", "content": system}] if system else []
    with _client() as client:

        def turn(text: str) -> None:
            messages.append({"role": "user", "content": text})
            request = {
                "model": model,
                "adapter": adapter,
                "messages": messages,
                "sampling": {"max_tokens": max_tokens, "temperature": temperature},
            }
            answer = []
            with client.generation.StreamChat(request, timeout=timeout) as pieces:
                for piece in pieces:
                    answer.append(piece.text)
                    if as_json:
                        _print_json(piece)
                    else:
                        _say(piece.text)
                        if piece.HasField("usage"):
                            print()
                            _speed(piece.usage, piece.timings)
            said = "".join(answer)
            if said.strip():
                messages.append({"role": "assistant", "content": said})
            else:
                messages.pop()  # Chat takes no empty answer, and some models no two messages of a user in a row

        _converse(message, "a message", turn)


def _converse(text: str | None, name: str, turn: Callable[[str], None]) -> None:
    """One turn with ``text`` or standard input; if that is a terminal, a turn for each line until an empty one."""
    if text is not None or sys.stdin is None or not sys.stdin.isatty():
        turn(_stdin_or(text, name))
        return
    err.print("[dim]An empty line ends the conversation.[/dim]")
    with suppress(EOFError):
        while line := out.input("[bold]> [/bold]").strip():
            turn(line)
        return
    print()


def _speed(usage: common_pb2.Usage, timings: common_pb2.StageTimings) -> None:
    ttft, total = timings.time_to_first_token_seconds, timings.total_seconds
    rate = (usage.output_tokens - 1) / (total - ttft) if usage.output_tokens > 1 and total > ttft else 0
    err.print(
        f"[dim]TTFT {ttft * 1000:.0f} ms, {rate:.0f} tokens/s, {usage.input_tokens} read, {usage.output_tokens} written[/dim]"
    )


ANALYZERS = "standard, icu, chinese, or a language, such as english (where left out) or german."
SUFFIXES = (".md", ".markdown", ".txt")
# A YAML head that says "source" itself.
OWN_SOURCE = re.compile(r"\A---[ \t]*\n(?:(?!---|\.\.\.).*\n)*?source[ \t]*:")


def _within(folder: Path) -> list[Path]:
    """The text files of a folder and those below it; hidden ones are none of it."""
    found = []
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() in SUFFIXES and not hidden and file.is_file():
            found.append(file)
    return sorted(found)


def _files(paths: list[Path]) -> dict[str, Path]:
    """Documents' ids and files: a file's name, or its path within the folder that was given."""
    found: dict[str, Path] = {}
    for path in paths:
        inside = _within(path) if path.is_dir() else [path]
        for file in inside:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            if found.setdefault(name, file) != file:
                raise typer.BadParameter(
                    f"{found[name]} and {file} would both be the document {name!r}; give a folder that has both in it"
                )
    return found


def _documents(
    files: dict[str, Path], stream: dict[str, str], unread: list[rag_pb2.IngestResponse]
) -> Iterator[dict[str, Any]]:
    """``stream``: what each message says of the stream; ``unread``: takes the failures of the documents that cannot be sent."""
    for name, path in files.items():
        try:
            name.encode()
            text = _contents(path, DOCUMENT_BYTES).decode("utf-8-sig")
        except (OSError, UnicodeError) as failure:
            printable = name.encode(errors="backslashreplace").decode()
            message = getattr(failure, "strerror", None) or str(failure)
            failed = rag_pb2.DocumentFailed(document_id=printable, reason="FILE_UNREADABLE", message=message)
            unread.append(rag_pb2.IngestResponse(failed=failed))
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        metadata = {} if OWN_SOURCE.match(text) else {"source": name}
        yield {**stream, "document": {"id": name, "text": text, "metadata": metadata}}


def _ingested(client: Client, documents: Iterator[dict[str, Any]], unread: list[Any], timeout: float) -> Iterator[Any]:
    """The server's events, and those of ``unread`` as they come."""
    try:
        for event in client.rag.Ingest(documents, timeout=timeout):
            while unread:
                yield unread.pop(0)
            yield event
    except GenmeshError:
        yield from unread
        raise
    yield from unread


@app.command()
def ingest(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files; or folders, of which the .md, .markdown and .txt files that are not hidden."),
    ],
    collection: Annotated[str, typer.Option("--collection", "-c")] = "",
    analyzer: Annotated[str, typer.Option(help="How a new collection splits texts into words: " + ANALYZERS)] = "",
    timeout: Timeout = 3600,
    as_json: Json = False,
) -> None:
    """Take documents in; each replaces the one of the same id: a file's name, or its path within a folder that is given.

    Filters find it by its metadata `source`: what its YAML head says, else its id. Documents whose files are gone stay.
    """
    files = _files(paths)
    if not files:
        raise typer.BadParameter("there are no .md, .markdown or .txt files there")
    failed = passages = 0
    with _client() as client, _progress("documents", as_json) as progress:
        task = progress.add_task("ingest", total=len(files))
        unread: list[rag_pb2.IngestResponse] = []
        stream = {"collection": collection, "analyzer": analyzer}
        for event in _ingested(client, _documents(files, stream, unread), unread, timeout):
            kind = event.WhichOneof("event")
            if as_json:
                _print_json(event)
            if kind == "progress":
                done, total = event.progress.passages_done, event.progress.passages_total
                progress.update(task, description=f"{event.progress.document_id} ({done}/{total} passages)")
            else:
                progress.advance(task)
            if kind == "ingested":
                passages += event.ingested.passage_count
            elif kind == "failed":
                failed += 1
                if not as_json:
                    err.print(f"[red]{escape(event.failed.document_id)}: {escape(event.failed.message)}[/red]")
        progress.update(task, description="ingest")
    if not as_json:
        out.print(f"{len(files) - failed} documents, {passages} passages" + (f", {failed} failed" if failed else ""))
    if failed:
        raise typer.Exit(1)


# After these the work goes on where it was.
REINDEX_AGAIN = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "UNAUTHENTICATED"}


@app.command()
def reindex(
    collection: Annotated[str, typer.Argument(help="The collection.")] = "",
    model: Annotated[
        str, typer.Option(help="The embedding model; the one that made the vectors, as it is now, where left out.")
    ] = "",
    analyzer: Annotated[
        str, typer.Option(help="How texts are split into words, if otherwise than so far: " + ANALYZERS)
    ] = "",
    timeout: Timeout = 3600,
    as_json: Json = False,
) -> None:
    """Make the vectors of a collection anew, by its embedding model as it is now or by another one, and its words for BM25.

    The old vectors serve until the end. What is interrupted goes on where it was: run it again.
    """
    until, pause = time.monotonic() + timeout, 1.0
    with _client() as client, _progress("entities", as_json) as progress:
        task = progress.add_task("reindex", total=None)
        while True:
            went_on = False
            try:
                left = max(1.0, until - time.monotonic())
                wanted = {"collection": collection, "model": model, "analyzer": analyzer}
                for event in client.rag.Reindex(wanted, timeout=left):
                    if as_json:
                        _print_json(event)
                    if event.WhichOneof("event") == "result":
                        result = event.result
                        break
                    went_on = True
                    done, total = event.progress.entities_done, event.progress.entities_total
                    progress.update(task, completed=done, total=total)
                break
            except GenmeshError as failure:
                again = failure.code.name in REINDEX_AGAIN and (
                    went_on or failure.code.name in ("UNAVAILABLE", "ABORTED")
                )
                if not again or time.monotonic() + pause > until:
                    raise
                pause = 1.0 if went_on else min(2 * pause, 30.0)
                err.print(f"[dim]{escape(failure.message)}; it goes on in {pause:.0f} s[/dim]")
                time.sleep(pause)
    before, now = result.previous_model_revision or "a model that is not known", escape(result.model_revision)
    if as_json:
        return
    if not result.recomputed_count:
        out.print(f"{result.entity_count} entities, all with vectors of {now} already")
    else:
        out.print(
            f"{result.recomputed_count} vectors made anew, of {result.entity_count} entities: {escape(before)} -> {now}"
        )


@app.command()
def search(
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    collection: Annotated[str, typer.Option("--collection", "-c")] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k")] = 0,
    filter: Annotated[str, typer.Option(help="A filter.")] = "",
    mode: Mode = SearchBy.DEFAULT,
    parents: Parents = None,
    expand: Expand = None,
    hyde: Hyde = None,
    timeout: Timeout = 60,
    as_json: Json = False,
) -> None:
    """Find passages, without an answer."""
    request = {
        "question": _stdin_or(question, "a question"),
        "collection": collection,
        "top_k": top_k,
        "filter": filter,
        **_search_options(mode, parents, expand, hyde),
    }
    with _client() as client:
        response = client.rag.Retrieve(request, timeout=timeout)
    if as_json:
        _print_json(response)
        return
    for query in response.queries:
        _print_query(query)
    for passage in response.passages:
        place = " > ".join([passage.document_id, *passage.headings])
        out.print(f"[bold]\\[{passage.number}][/bold] {escape(place)} [dim]{passage.score:.3f}[/dim]")
        out.print("    " + escape(passage.text.replace("\n", "\n    ")))


@app.command("eval")
def evaluate(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    questions: Annotated[Path, typer.Argument(help="Questions, a JSON object a line.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Passages that an answer may rest on at most.")] = 0,
    filter: Annotated[str, typer.Option(help="A filter for questions without one of their own.")] = "",
    model: Annotated[str, typer.Option(help="The generating model.")] = "",
    mode: Mode = SearchBy.DEFAULT,
    parents: Parents = None,
    expand: Expand = None,
    hyde: Hyde = None,
    answers: Annotated[bool, typer.Option(help="Ask for answers, too, not for passages alone.")] = True,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Questions at once.")] = 1,
    details: Annotated[
        Path | None,
        typer.Option(help="A file for the result of each question, as JSON lines.", callback=_writable),
    ] = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Measure how well your own questions are answered: nDCG, recall, citations, abstention.

    A line is {"question": "...", "relevant": ["handbook.md"], "answers": ["seven years"]}. "relevant" lists the ids of the
    documents that answer the question, or their grades ({"handbook.md": 2, "faq.md": 1}). If it is empty or missing, the right
    reply is that nothing answers. "answers" (optional) lists gold answers; "filter" (optional) is a filter; "history" (optional)
    lists the messages before the question, {"role": "user", "content": "..."} or with the role "assistant".
    """
    try:
        asked = evaluation.read(_contents(questions, DOCUMENT_BYTES).decode("utf-8-sig"))
    except ValueError as failure:
        raise typer.BadParameter(f"{questions}: {failure}") from None
    options = _search_options(mode, parents, expand, hyde)
    wanted = {"collection": collection, "model": model, "filter": filter, **options}
    given: list[evaluation.Given] = []
    with _client() as client, _progress("questions", as_json) as progress:
        task = progress.add_task("eval", total=len(asked))
        with ThreadPoolExecutor(clients) as pool:
            ask = partial(evaluation.ask, client, answers=answers, timeout=timeout, top_k=top_k)
            results = [pool.submit(ask, question, wanted) for question in asked]
            try:
                for result in results:
                    given.append(result.result())
                    progress.advance(task)
            finally:
                pool.shutdown(cancel_futures=True)
    if details is not None:
        with _named(details):
            details.write_text("".join(json.dumps(one.details(), ensure_ascii=False) + "\n" for one in given), "utf-8")
    figures = evaluation.figures(given, answers=answers)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in figures.items():
        table.add_row(evaluation.NAMES[name], evaluation.shown(name, value))
    out.print(table)


@app.command()
def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; the lines of standard input where left out.")
    ] = None,
    model: Annotated[str, typer.Option()] = "",
    timeout: Timeout = 60,
    as_json: Json = False,
) -> None:
    """Embed texts."""
    # str.splitlines would also end lines at form feeds and at U+2028.
    inputs = texts or [line.removesuffix("\r") for line in _stdin_or(None, "texts").split("\n") if line.strip()]
    with _client() as client:
        response = client.embedding.Embed({"model": model, "inputs": inputs}, timeout=timeout)
    if as_json:
        _print_json(response)
    else:
        for text, result in zip(inputs, response.results, strict=True):
            if result.HasField("error"):
                out.print(f"[red]{escape(result.error.message)}[/red]  {escape(text[:60])}")
            else:
                head = ", ".join(f"{v:.4f}" for v in result.embedding.values[:4])
                out.print(f"\\[{head}, ... {response.dimension} values]  {escape(text[:60])}")
        err.print(f"[dim]{response.model_revision}; cache: {response.cache.reason}[/dim]")
    if any(result.HasField("error") for result in response.results):
        raise typer.Exit(1)


@app.command()
def tokens(
    text: Annotated[str | None, typer.Argument(help="The text.")] = None,
    model: Annotated[str, typer.Option()] = "",
    timeout: Timeout = 15,
    as_json: Json = False,
) -> None:
    """Show the tokens of a text."""
    request = {"model": model, "texts": [_stdin_or(text, "a text")], "return_offsets": True}
    with _client() as client:
        response = client.tokenization.Encode(request, timeout=timeout)
    if as_json:
        _print_json(response)
        return
    sequence = response.sequences[0]
    for number, (token, start, end) in enumerate(
        zip(sequence.tokens, sequence.start_offsets, sequence.end_offsets, strict=True)
    ):
        out.print(f"{sequence.ids[number]:>8}  {start:>5}-{end:<5}  {escape(token)}")
    err.print(f"[dim]{len(sequence.ids)} tokens of {response.model_revision}[/dim]")


@app.command()
def image(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    output: Output = Path("image.png"),
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT; the model's own where left out.")] = "",
    steps: Annotated[int, typer.Option()] = 0,
    seed: Annotated[int | None, typer.Option()] = None,
    double: Annotated[bool, typer.Option("--upscale", help="Double the image's size.")] = False,
    timeout: Timeout = 300,
    as_json: Json = False,
) -> None:
    """Draw an image."""
    request: dict[str, Any] = {"prompt": _stdin_or(prompt, "a prompt"), "steps": steps, "upscale": double}
    if size:
        try:
            request["width"], request["height"] = (int(part) for part in size.lower().split("x"))
        except ValueError:
            raise typer.BadParameter("--size is WIDTHxHEIGHT, such as 64x64") from None
    if seed is not None:
        request["seed"] = seed
    with _client() as client, _progress("steps", as_json) as progress:
        task = progress.add_task("draw", total=steps or None)
        for event in client.diffusion.StreamGenerateImage(request, timeout=timeout):
            if as_json:
                _print_json(event)
            if event.HasField("step"):
                progress.update(task, total=event.step.total_steps, completed=event.step.step)
            else:
                picture = event.image.image
    with _named(output):
        output.write_bytes(picture.data)
    if not as_json:
        out.print(f"{escape(str(output))}: {picture.width} x {picture.height}, seed {picture.seed}")
        if event.image.truncated_fields:
            err.print("[yellow]The prompt is longer than the model reads; its end had no effect.[/yellow]")


@app.command()
def upscale(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.", exists=True, dir_okay=False)],
    output: Output = Path("upscaled.png"),
    timeout: Timeout = 60,
    as_json: Json = False,
) -> None:
    """Double an image's width and height."""
    data = _contents(image, MESSAGE_LIMIT)
    with _client() as client:
        response = client.diffusion.UpscaleImage({"image": data}, timeout=timeout)
    with _named(output):
        output.write_bytes(response.image.data)
    if as_json:
        _print_json(response)
    else:
        out.print(f"{escape(str(output))}: {response.image.width} x {response.image.height}")


def _limits(model: models_pb2.Model) -> str:
    """What a model takes on, in words; what it has no limit of is left out."""
    limits = model.limits
    named = (
        (model.context_tokens, "tokens"),
        (limits.concurrent_requests, "at once"),
        (limits.waiting_requests, "waiting"),
        (limits.pixels, "pixels"),
        (limits.adapters, "adapters held"),
    )
    return ", ".join(f"{value:,} {name}" for value, name in named if value)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="One model; all where left out.")] = None,
    timeout: Timeout = 15,
    as_json: Json = False,
) -> None:
    """Show what models are served."""
    with _client() as client:
        if name:
            response = client.models.GetModel({"name": name}, timeout=timeout)
            found = [response.model]
        else:
            response = client.models.ListModels({}, timeout=timeout)
            found = list(response.models)
    if as_json:
        _print_json(response)
        return
    table = Table(
        "model", "version", "task", "ready", "precision", "computes in", "engine", "parameters", "memory", "limits", "verified",
        "adapters", "revision", box=None,
    )  # fmt: skip
    for model in found:
        task = models_pb2.ModelTask.Name(model.task).removeprefix("MODEL_TASK_").lower()
        some = f"{model.ready_replica_count} of {model.replica_count}" if model.ready else "no"
        ready = f"{some}: {model.not_ready_reason}" if model.not_ready_reason else "yes"
        table.add_row(
            model.name, model.version, task, ready, model.precision, model.inference_precision or "-", model.engine,
            f"{model.parameter_count / 1e6:.1f} M",
            f"{model.memory_bytes / 2**20:.0f} MiB" if model.memory_bytes else "-", _limits(model) or "-",
            ", ".join(f"{f.name} {f.value:.3f}" for f in model.verification) or "-",
            ", ".join(model.adapters) or "-", model.revision,
        )  # fmt: skip
    out.print(table)


@app.command()
def status(timeout: Timeout = 5, as_json: Json = False) -> None:
    """Show whether each service answers."""
    # The health protocol, called by its path: the client needs no further package for two small messages.
    found = {}
    with _client() as client:
        check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        for attribute, name in SERVICES.items():
            encoded = name.encode()
            try:
                answer = check(b"\x0a" + bytes([len(encoded)]) + encoded, timeout=timeout)
                found[attribute] = "SERVING" if answer == b"\x08\x01" else "NOT_SERVING"
            except grpc.RpcError as failure:
                found[attribute] = failure.code().name
    if as_json:
        print(json.dumps(found))
    else:
        for attribute, state in found.items():
            out.print(f"{attribute:<14} [{'green' if state == 'SERVING' else 'red'}]{state}[/]")
    if any(state != "SERVING" for state in found.values()):
        raise typer.Exit(1)


def _fill_closed_streams() -> None:
    """Standard streams that are closed get /dev/null; a connection would take their place, and gRPC's log go into it."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)


def _report(failure: GenmeshError, as_json: bool) -> None:
    violations = [{"field": v.field, "description": v.description} for v in failure.field_violations]
    if as_json:
        error = {
            "code": failure.code.name,
            "reason": failure.reason,
            "message": failure.message,
            "field_violations": violations,
            "request_id": failure.request_id,
        }
        print(json.dumps({"error": error}), file=err.file)  # sys.stderr, if it is open
        return
    err.print(f"[red]Error:[/red] {escape(failure.message)} [dim]({failure.code.name} {failure.reason})[/dim]")
    for violation in violations:
        line = f"{violation['field']}: {violation['description']}"
        if line not in failure.message:
            err.print(f"  {escape(line)}")


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument(text, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def _failed_io(text: str) -> FailedPrecondition:
    return FailedPrecondition(text, grpc.StatusCode.FAILED_PRECONDITION, "IO_FAILED")


def _run(as_json: bool) -> None:
    if sys.stdout is None:
        raise _failed_io("standard output is closed")
    try:
        # typer reports wrong usage itself, but in words only.
        sys.exit(app(standalone_mode=not as_json))
    except UnicodeDecodeError as failure:
        raise _invalid(f"standard input is no {failure.encoding.upper()}: {failure}") from None
    except UnicodeEncodeError as failure:
        character = ascii(failure.object[failure.start])
        text = (
            f"standard output has the encoding {failure.encoding}, which lacks {character}; set PYTHONIOENCODING=utf-8"
        )
        raise _failed_io(text) from None
    finally:
        sys.stdout.flush()


def main() -> None:
    _fill_closed_streams()
    as_json = "--json" in takewhile(lambda argument: argument != "--", sys.argv[1:])
    code = 1
    try:
        if any("\udc80" <= c <= "\udcff" for argument in sys.argv for c in argument):
            code = 2
            raise _invalid("an argument is no UTF-8")
        _run(as_json)
    except GenmeshError as failure:
        _report(failure, as_json)
    except UsageError as failure:
        code = 2
        _report(_invalid(failure.format_message()), as_json)
    except OSError as failure:
        _report(_failed_io(f"{failure.filename or 'standard output'}: {failure.strerror or failure}"), as_json)
        if failure.filename is None:
            # What could not be written must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
