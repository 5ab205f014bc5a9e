"""The command line: ``genmesh-models build|verify|list|add|rollback|finetune``."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from genmesh_models import catalogue as catalogues
from genmesh_models import report as reports
from genmesh_models import sources, verification, versions
from genmesh_models.build import STEPS, run_apart
from genmesh_models.catalogue import PRECISIONS, PROFILES, REPOSITORY, Entry
from genmesh_models.errors import BuildError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
# A pipe has no width: a table must not be cut for it.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 260)

Into = Annotated[Path, typer.Option("--into", envvar="GENMESH_MODELS_DIR", help="Triton's model repository.")]
CatalogueFile = Annotated[Path, typer.Option("--catalogue", help="The catalogue.")]
Triton = Annotated[
    str | None, typer.Option("--triton", envvar="GENMESH_TRITON_URL", help="host:port of a Triton that serves --into.")
]
Names = Annotated[list[str] | None, typer.Argument(help="Models; all where none is named.")]
DEFAULT_INTO = Path(".state/models")
DEFAULT_CATALOGUE = REPOSITORY / "models.yaml"


def chosen(catalogue: Path, names: list[str] | None, profile: str = "cpu") -> list[Entry]:
    if profile not in PROFILES:
        raise BuildError(f"there is no profile {profile!r}; there is {', '.join(PROFILES)}")
    found = catalogues.read(catalogue, profile)
    if unknown := [name for name in names or [] if name not in found]:
        raise BuildError(f"{catalogue.name} has no model {', '.join(unknown)}; it has {', '.join(found)}")
    return [found[name] for name in names or found]


def figures_text(figures: list[dict[str, Any]]) -> str:
    return ", ".join(f"{f['name']} {f['value']:.4f}" for f in figures)


@app.command()
def build(
    names: Names = None,
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    profile: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    triton: Triton = None,
) -> None:
    """Quantize, verify and put in place what changed; with --triton a new version takes over while requests run."""
    entries = chosen(catalogue, names, profile)
    into = into.resolve()
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TextColumn("{task.fields[step]}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        for position, entry in enumerate(entries, 1):
            title = f"[{position}/{len(entries)}] {entry.name}"
            task = bar.add_task(title.replace("[", r"\["), total=len(STEPS), step="")
            begun = time.monotonic()

            def show(step: str, task: Any = task) -> None:
                bar.update(task, completed=STEPS.index(step), step=step)

            card = run_apart(entry, into, show)
            model = into / entry.name
            if card is not None:
                try:
                    versions.activate(model, int(card["version"]), triton)
                except BuildError as failure:
                    versions.discard(model, int(card["version"]))
                    raise BuildError(f"{failure}; version {card['version']} is discarded") from None
                versions.prune(model)
                took = f"version {card['version']} built in {time.monotonic() - begun:.0f} s"
            else:
                card = versions.active(model) or {}
                took = "up to date"
            bar.update(task, completed=len(STEPS), step="")
            console.print(f"{title} {took} ({figures_text(card['verification'])})", markup=False)


@app.command()
def verify(
    names: Names = None,
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    profile: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
) -> None:
    """Check the active versions: their files' checksums, their sources', and their figures' bounds."""
    faults = []
    for entry in chosen(catalogue, names, profile):
        card = versions.active(into / entry.name)
        if card is None:
            faults.append(f"{entry.name}: nothing is built in {into}")
            continue
        weights = into / entry.name / card["version"] / "weights"
        now = sources.checksums(weights)
        changed = sorted(name for name in {*now, *card["files"]} if now.get(name) != card["files"].get(name))
        found = [f"{entry.name}: {weights / name} is not what the build wrote" for name in changed]
        try:
            source = sources.folder_of(entry)
            sources.check(entry, source)
            was = card["source_sha256"]
            if card["source"] == entry.source and sources.checksums(source) != was:
                found.append(f"{entry.name}: the files of {entry.source} changed since it was built; build it again")
        except BuildError as failure:
            found.append(str(failure))
        held = [verification.held(f, entry.verify) for f in card["verification"]]
        found += [f"{entry.name}: {verification.sentence(f)}" for f in held if not verification.passes(f)]
        faults += found
        state = "does not verify" if found else "verified"
        console.print(f"{entry.name} version {card['version']}: {state} ({figures_text(held)})", markup=False)
    if faults:
        raise BuildError("\n".join(faults))


@app.command("list")
def list_models(into: Into = DEFAULT_INTO, catalogue: CatalogueFile = DEFAULT_CATALOGUE) -> None:
    """What the catalogue names and what of it is built."""
    table = Table(
        "model", "task", "source", "precision", "active", "others", "revision", "memory", "verified", box=None
    )
    for entry in chosen(catalogue, None):
        card = versions.active(into / entry.name)
        cells = [entry.name, entry.task, entry.source, entry.precision]
        if card is None:
            cells += ["not built"]
        else:
            others = [str(n) for n in versions.versions(into / entry.name) if str(n) != card["version"]]
            memory = f"{card['memory_bytes'] / 2**20:.0f} MiB" if "memory_bytes" in card else ""
            cells += [card["version"], ", ".join(others), card["revision"], memory, figures_text(card["verification"])]
        table.add_row(*cells)
    console.print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name that requests give.")],
    source: Annotated[str, typer.Option(help="A folder, package:NAME/FOLDER, or hub:OWNER/NAME[@REVISION].")],
    task: Annotated[str, typer.Option(help="embed, rerank, generate, diffuse or upscale.")],
    precision: Annotated[str, typer.Option(help="See models.yaml.")] = "int8",
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
) -> None:
    """Write a model into the catalogue, with the checksums of its weights and its task's usual limits."""
    facts: dict[str, Any] = {"task": task, "source": source, "precision": precision}
    entry = catalogues.entry_of(name, facts, "cpu", "the command line")
    folder = sources.folder_of(entry)
    facts["sha256"] = {
        file: digest for file, digest in sources.checksums(folder).items() if file.endswith((".safetensors", ".txt"))
    }
    known = catalogues.read(catalogue).get(catalogues.TEMPLATES[task])
    facts |= dict(known.limits) if known is not None else {}
    catalogues.append(catalogue, name, facts)
    console.print(f"{name} stands in {catalogue}; build it with: genmesh-models build {name}", markup=False)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    into: Into = DEFAULT_INTO,
    to: Annotated[int | None, typer.Option(help="A version; the one before the active one where unset.")] = None,
    triton: Triton = None,
) -> None:
    """Go back to an earlier version, while requests run."""
    number = versions.rollback(into / name, triton, to)
    console.print(f"{name}: version {number} answers", markup=False)


@app.command()
def report(
    names: Names = None,
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    served: Annotated[bool, typer.Option("--served", help="Only what is built and active: nothing is built.")] = False,
    document: Annotated[Path, typer.Option(help="The document whose table is written.")] = REPOSITORY.parent / "docs" / "models.md",
) -> None:  # fmt: skip
    """Build each model in each precision beside the active ones, and write the table of figures, speed and memory."""
    rows: list[str] = []
    for entry in chosen(catalogue, names):
        for precision in PRECISIONS["cpu"][entry.task]:
            if served and precision != entry.precision:
                continue
            try:
                card = versions.active(into / entry.name) if served else at_precision(entry, precision, into)
                if card is None:
                    raise BuildError("not built")
                rows.append(reports.row(card, served=precision == entry.precision))
            except BuildError as failure:
                rows.append(reports.refused(entry, precision, str(failure)))
            console.print(rows[-1], markup=False)
            reports.write(document, rows)  # each time, so that a long run that is broken off leaves what it has


def at_precision(entry: Entry, precision: str, into: Path) -> dict[str, Any] | None:
    """The card of a model built in another precision, in a repository of its own."""
    aside = into.resolve().parent / "report" / precision / "models"
    card = run_apart(catalogues.at_precision(entry, precision), aside, lambda step: None)
    if card is not None:
        versions.activate(aside / entry.name, int(card["version"]), None)
    return card or versions.active(aside / entry.name)


@app.command()
def finetune(
    base: Annotated[str, typer.Argument(help="A generator of the catalogue.")],
    name: Annotated[str, typer.Argument(help="The adapter's name, which requests give.")],
    data: Annotated[Path, typer.Option(help='JSONL of chats: {"messages": [{"role", "content"}, ...]} a line.')],
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    quantized: Annotated[bool, typer.Option("--qlora", help="Keep the base in 4 bits while training (QLoRA).")] = False,
    rank: Annotated[int, typer.Option(min=1, max=256)] = 8,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train a LoRA adapter on chats; it can be served at once, without a restart."""
    (entry,) = chosen(catalogue, [base])
    work = import_module("genmesh_models.finetune")
    result = work.finetune(
        entry, name, data, into, quantized=quantized, rank=rank, epochs=epochs, rate=rate, seed=seed,
        say=lambda text: console.print(text, markup=False),
    )  # fmt: skip
    console.print(f"adapter {name} of {base} is in {result}; requests choose it by name", markup=False)


def main() -> None:
    try:
        app()
    except BuildError as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
