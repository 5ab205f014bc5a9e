"""The command line: genmesh-models build, verify, measure, list, add, rollback, finetune, add-adapter, remove-adapter, report."""

from __future__ import annotations

import os
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from plugin import has_bfloat16
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from genmesh_models import catalogue as catalogues
from genmesh_models import report as reports
from genmesh_models import control, lora, sources, verification, versions
from genmesh_models.build import STEPS, Report, alone, builder_of, measured, run_apart
from genmesh_models.catalogue import PRECISIONS, PROFILES, REPOSITORY, Entry
from genmesh_models.errors import BuildError, NotLoaded, sentence

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
# A pipe has no width: a table must not be cut for it.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 260)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

Into = Annotated[Path, typer.Option("--into", envvar="GENMESH_MODELS_DIR", help="Triton's model repository.")]
CatalogueFile = Annotated[Path, typer.Option("--catalogue", help="The catalogue.")]
Triton = Annotated[
    str | None, typer.Option("--triton", envvar="GENMESH_TRITON_URL", help="host:port of a Triton that serves --into.")
]
Names = Annotated[list[str] | None, typer.Argument(help="Models; all where none is named.")]
DEFAULT_INTO = Path(".state/models")
DEFAULT_CATALOGUE = REPOSITORY / "models.yaml"
RATES = {"sft": 2e-3, "dpo": 1e-4}  # how adapters are trained, and the peak learning rate where none is said


def chosen(catalogue: Path, names: list[str] | None, profile: str = "cpu") -> list[Entry]:
    if profile not in PROFILES:
        raise BuildError(f"there is no profile {profile!r}; there is {', '.join(PROFILES)}")
    found = catalogues.read(catalogue, profile)
    if unknown := [name for name in names or [] if name not in found]:
        raise BuildError(f"{catalogue.name} has no model {', '.join(unknown)}; it has {', '.join(found)}")
    return [found[name] for name in names or found]


def figures_text(figures: list[dict[str, Any]]) -> str:
    return ", ".join(f"{f['name']} {f['value']:.4f}" for f in figures)


def untold(triton: str | None) -> str:
    """What to do where a model changed and a Triton may run that was not told."""
    return "" if triton else "; if a Triton serves it, run the same again with --triton HOST:PORT, or start Triton anew"


@app.command()
def build(
    names: Names = None,
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    profile: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    triton: Triton = None,
) -> None:
    """Quantize, verify and put in place what changed; with --triton a new version takes over while requests run. One
    that fails keeps no other from being built."""
    entries = chosen(catalogue, names, profile)
    into = into.resolve()
    if triton is not None:
        control.reach(triton)
    failed = False
    with progress("{task.completed}/{task.total}", "{task.fields[step]}") as bar:
        for position, entry in enumerate(entries, 1):
            title = f"[{position}/{len(entries)}] "
            task = bar.add_task((title + entry.name).replace("[", r"\["), total=len(STEPS), step="")

            def show(step: str, task: Any = task) -> None:
                bar.update(task, completed=STEPS.index(step.partition(":")[0]), step=step)

            try:
                result = build_one(entry, into, triton, show)
            except BuildError as failure:  # the next one's source may be there
                failed = True
                bar.update(task, step="failed")
                errors.print(title + str(failure), markup=False)
            else:
                bar.update(task, completed=len(STEPS), step="")
                console.print(f"{title}{entry.name} {result}", markup=False)
    if failed:
        raise typer.Exit(1)


def progress(*columns: str) -> Progress:
    """Bars with these texts behind them, where someone looks on."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *map(TextColumn, columns),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip


def build_one(entry: Entry, into: Path, triton: str | None, show: Report) -> str:
    """Build a model where it is not up to date, and let it take over; what was done."""
    begun = time.monotonic()
    model = into / entry.name
    with alone(model, show):
        return build_alone(entry, into, triton, show, begun)


def build_alone(entry: Entry, into: Path, triton: str | None, show: Report, begun: float) -> str:
    card = run_apart(entry, into, show)
    model = into / entry.name
    if card is not None:
        first = versions.active(model) is None
        try:
            versions.activate(model, int(card["version"]), triton)
        except NotLoaded as failure:
            if (versions.active(model) or {}).get("version") == card["version"]:
                raise  # it answers; the one before it was not taken away
            versions.discard(model, int(card["version"]))
            raise BuildError(f"{failure}; version {card['version']} is discarded") from None
        versions.prune(model)
        took = f"version {card['version']} built in {time.monotonic() - begun:.0f} s" + (
            "" if first else untold(triton)
        )
    else:
        card = versions.active(model) or {}
        took = "up to date"
        if triton is not None:
            versions.settle(model, triton)
        if back := versions.rolled_back(model):
            took = f"rolled back from version {max(back)}: genmesh-models rollback {entry.name} --to {max(back)} undoes that"
    return f"{took} ({figures_text(card['verification'])})"


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
        version = into / entry.name / card["version"]
        found = [
            f"{entry.name}: {version / name} is not what the build wrote"
            for name in versions.changed(version.parent, card)
        ]
        try:
            source = sources.folder_of(entry)
            sources.check(entry, source)
            was = card["source_sha256"]
            if card["source"] == entry.source and sources.weights_of(entry, source) != was:
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


@app.command()
def measure(names: Names = None, into: Into = DEFAULT_INTO, catalogue: CatalogueFile = DEFAULT_CATALOGUE) -> None:
    """Measure memory and speed of the active versions, one after the other; `genmesh models` then shows them."""
    for entry in chosen(catalogue, names):
        model = into / entry.name
        with alone(model):
            if (card := versions.active(model)) is None:
                raise BuildError(f"{entry.name}: nothing is built in {into}")
            figures = measured(model / card["version"], entry.task)
            versions.note(model, figures)
        console.print(
            f"{entry.name}: {figures['speed']:,.4g} {figures['speed_unit']}, {figures['memory_bytes'] / 2**20:.0f} MiB",
            markup=False,
        )


@app.command("list")
def list_models(into: Into = DEFAULT_INTO, catalogue: CatalogueFile = DEFAULT_CATALOGUE) -> None:
    """What is built and active of each model of the catalogue; where its entry says another source or precision now,
    that stands behind an arrow: the next build makes it."""
    table = Table(
        "model",
        "task",
        "source",
        "precision",
        "active",
        "others",
        "adapters",
        "revision",
        "memory",
        "verified",
        box=None,
    )
    both = {profile: catalogues.read(catalogue, profile) for profile in PROFILES}
    for name in dict.fromkeys(name for entries in both.values() for name in entries):
        card = versions.active(into / name)
        profile = (card or {}).get("profile", "cpu")
        entry = both[profile].get(name) or next(entries[name] for entries in both.values() if name in entries)
        if card is None:
            cells = [entry.name, entry.task, entry.source, entry.precision, "not built"]
        else:
            wanted = {"source": entry.source, "precision": entry.precision}
            cells = [entry.name, entry.task]
            cells += [card[key] if card[key] == now else f"{card[key]} -> {now}" for key, now in wanted.items()]
            others = [str(n) for n in versions.versions(into / entry.name) if str(n) != card["version"]]
            memory = f"{card['memory_bytes'] / 2**20:.0f} MiB" if "memory_bytes" in card else ""
            adapters = ", ".join(lora.names(into / entry.name))
            cells += [card["version"], ", ".join(others), adapters, card["revision"], memory]
            cells += [figures_text(card["verification"])]
        table.add_row(*cells)
    console.print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name that requests give.")],
    source: Annotated[str, typer.Option(help="A folder, package:NAME/FOLDER, or hub:OWNER/NAME[@REVISION].")],
    task: Annotated[str, typer.Option(help="embed, rerank, generate, diffuse or upscale.")],
    precision: Annotated[str | None, typer.Option(help="See models.yaml; as its task's starter where unset.")] = None,
    gpu_source: Annotated[str | None, typer.Option(help="What the profile gpu takes instead: an AWQ checkpoint, say.")] = None,
    gpu_precision: Annotated[str | None, typer.Option(help="Of the profile gpu; as its task's starter where unset.")] = None,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
) -> None:  # fmt: skip
    """Write a model into the catalogue, with the checksums of its weights and its task's usual limits."""
    source = catalogues.given(source)
    if not source:
        raise BuildError(f"{name}: the source is empty")
    # A name that is taken is told before anything is downloaded.
    known = catalogues.without(catalogue, name).get(catalogues.TEMPLATES.get(task, ""))
    facts: dict[str, Any] = {"task": task, "source": source}
    facts["precision"] = precision or (known.precision if known is not None else "fp16")
    entry = catalogues.entry_of(name, facts, "cpu", "the command line")
    folder = fetched(entry)
    facts["sha256"] = weights_of(entry, folder)
    limits = usual(known)
    facts |= limits
    special: dict[str, Any] = {"precision": gpu_precision} if gpu_precision else {}
    if known is not None:
        starter = catalogues.read(catalogue, "gpu")[known.name]
        special = {"precision": starter.precision} | special
        special |= {key: value for key, value in usual(starter).items() if limits.get(key) != value}
    if gpu_source is not None:
        special["source"] = catalogues.given(gpu_source)
    if special:
        facts["gpu"] = special
    for_gpu = catalogues.entry_of(name, facts, "gpu", "the command line")
    if gpu_source is not None:
        special["sha256"] = weights_of(for_gpu, fetched(for_gpu))
    how = f"genmesh-models build {name}"
    try:
        builder_of(entry).check(folder, entry)
    except BuildError as failure:
        if gpu_source is not None:
            raise
        try:  # one that is quantized for GPUs, say
            builder_of(for_gpu).check(folder, for_gpu)
        except BuildError as too:
            raise BuildError(f"{failure}; for the profile gpu: {too}") from None
        facts["only"] = "gpu"
        how += f" --profile gpu --into FOLDER (not for a CPU: {failure})"
    if gpu_source is not None:
        builder_of(for_gpu).check(sources.folder_of(for_gpu), for_gpu)
    catalogues.append(catalogue, name, facts)
    console.print(f"{name} stands in {catalogue}; build it with: {how}", markup=False)


def usual(starter: Entry | None) -> dict[str, Any]:
    """The limits of a task's starter that are not only its own: the checkpoint says how much it reads."""
    own = (*catalogues.TUNED, "context_tokens")
    return {key: value for key, value in starter.limits.items() if key not in own} if starter is not None else {}


def fetched(entry: Entry) -> Path:
    """The folder of a source, downloaded where it is on the hub."""
    with progress() as bar:
        task = bar.add_task(entry.source, total=None)
        return sources.folder_of(entry, lambda text: bar.update(task, description=f"{entry.source}: {text}"))


def weights_of(entry: Entry, folder: Path) -> dict[str, str]:
    """The checksums of a source's weights; BuildError where there are none, or not whole."""
    sources.check_whole(entry.name, folder)
    tables = {path.name for form in sources.WORD_VECTORS for path in folder.glob(form)}
    found = {k: v for k, v in sources.checksums(folder).items() if k.endswith(".safetensors") or k in tables}
    if not found:
        raise BuildError(
            f"{entry.name}: {folder} holds no weights ({', '.join(['*.safetensors', *sources.WORD_VECTORS])})"
        )
    if empty := sorted(k for k in found if not (folder / k).stat().st_size):
        raise BuildError(f"{entry.name}: {folder / empty[0]} is empty")
    return found


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    into: Into = DEFAULT_INTO,
    to: Annotated[int | None, typer.Option(help="A version; the one before the active one where unset.")] = None,
    triton: Triton = None,
) -> None:
    """Go back to an earlier version, while requests run."""
    with alone(into.resolve() / name):
        number = versions.rollback(into / name, triton, to)
    # The same again would go back further.
    again = f"; where a Triton serves it: genmesh-models rollback {name} --to {number} --triton HOST:PORT"
    told = "answers" if triton else f"is active{again}"
    console.print(f"{name}: version {number} {told}", markup=False)


@app.command()
def report(
    names: Names = None,
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    served: Annotated[bool, typer.Option("--served", help="Only what is built and active: nothing is built.")] = False,
    document: Annotated[Path, typer.Option(help="The document whose table is written.")] = REPOSITORY.parent / "docs" / "models.md",
) -> None:  # fmt: skip
    """Build each model in each precision beside the active ones, measure one after the other, and write the table."""
    entries = chosen(catalogue, names)
    kept = {entry.name for entry in chosen(catalogue, None)} - set(names or []) if names else ()
    wanted = [(e, p) for e in entries for p in PRECISIONS["cpu"][e.task] if not served or p == e.precision]
    found: dict[tuple[str, str], Path | str] = {}
    for entry, precision in wanted:
        try:
            found[entry.name, precision] = into / entry.name if served else at_precision(entry, precision, into)
        except BuildError as failure:
            found[entry.name, precision] = str(failure)
        console.print(f"{entry.name} {precision}: {len(found)} of {len(wanted)}", markup=False)
    rows: list[str] = []
    for entry, precision in wanted:
        folder = found[entry.name, precision]
        try:
            if isinstance(folder, str):
                raise BuildError(folder)
            if (card := versions.active(folder)) is None:
                raise BuildError("not built")
            # Anew, for builds may be of other days with other work beside them.
            card |= measured(folder / card["version"], entry.task)
            rows.append(reports.row(card, entry.verify, served=precision == entry.precision))
        except BuildError as failure:
            rows.append(reports.refused(entry, precision, str(failure)))
        console.print(rows[-1], markup=False)
        reports.write(document, rows, kept)  # each time, so that a long run that is broken off leaves what it has


@app.command("report-bfloat16")
def report_bfloat16(
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    document: Annotated[Path, typer.Option(help="The document whose table is written.")] = REPOSITORY.parent / "docs" / "models.md",
) -> None:  # fmt: skip
    """Measure the active versions in float32 and in bfloat16, one after the other, and write the table."""
    if not has_bfloat16():
        raise BuildError("this processor has no bfloat16 (AVX512_BF16, AMX)")
    reports.write_inference(document, [compared(entry, into / entry.name) for entry in chosen(catalogue, None)])


def compared(entry: Entry, model: Path) -> str:
    """A row on an active version, computed in float32 and in bfloat16."""
    card = versions.active(model)
    if card is None:
        raise BuildError(f"{entry.name}: nothing is built in {model.parent}")
    figures, outputs = {}, []
    with TemporaryDirectory() as folder:
        for precision in ("f32", "bf16"):
            file = Path(folder) / f"{precision}.npy"
            figures[precision] = measured(model / card["version"], entry.task, precision, str(file))
            outputs.append(np.load(file))
    row = reports.inference_row(entry, figures, reports.agreement(entry.task, *outputs))
    console.print(row, markup=False)
    return row


def at_precision(entry: Entry, precision: str, into: Path) -> Path:
    """The folder of a model built in another precision, in a repository of its own."""
    aside = into.resolve().parent / "report" / precision / "models"
    with alone(aside / entry.name):
        card = run_apart(catalogues.at_precision(entry, precision), aside, lambda step: None)
        if card is not None:
            versions.activate(aside / entry.name, int(card["version"]), None)
    return aside / entry.name


@app.command()
def finetune(
    base: Annotated[str, typer.Argument(help="A generator of the catalogue.")],
    name: Annotated[str, typer.Argument(help="The adapter's name, which requests give.")],
    data: Annotated[
        Path,
        typer.Option(
            help='JSONL of chats, {"messages": [{"role", "content"}, ...]} a line; of pairs, {"prompt", "chosen", "rejected"}, for dpo.'
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="sft: learns to write the chats' answers; dpo: to prefer the chosen reply to the rejected one."
        ),
    ] = "sft",
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
    quantized: Annotated[bool, typer.Option("--qlora", help="Keep the base in 4 bits while training (QLoRA).")] = False,
    rank: Annotated[int, typer.Option(min=1, max=256, help="Of a new adapter.")] = 8,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="As many as make 100 steps where unset, at least 3.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Peak learning rate; 2e-3 where unset, for dpo 1e-4.")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Of dpo: the greater, the nearer to the base it stays; 0.1 where unset."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1 ...")] = "cpu",
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.5, help="Share of the chats or pairs that is only evaluated; by default a tenth of 50 or more."
        ),
    ] = None,
    patience: Annotated[
        int, typer.Option(min=1, help="Evaluations without a lower held-out loss before training ends.")
    ] = 4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step, padding included.")] = 1024,
    start: Annotated[
        Path | None, typer.Option(help="An adapter to go on with, as PEFT writes it; its rank stays.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train a LoRA adapter on chats or preferences; it can be served at once, without a restart."""
    if method not in RATES:
        raise BuildError(f"there is no method {method!r}; there is {', '.join(RATES)}")
    if method == "sft" and beta is not None:
        raise BuildError("--beta is of --method dpo: sft has no reference to stay near")
    (entry,) = chosen(catalogue, [base])
    # Of libraries, as in a build: they say nothing about the result.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    if method == "dpo":
        train = import_module("genmesh_models.preferences").prefer
        special = {} if beta is None else {"beta": beta}
    else:
        train, special = import_module("genmesh_models.finetune").finetune, {}
    with progress("step {task.completed} of {task.total}", "loss {task.fields[loss]}") as bar:
        task = bar.add_task(name, total=None, loss="")
        result = train(
            entry, name, data, into, quantized=quantized, rank=rank, epochs=epochs, rate=rate or RATES[method], seed=seed,
            device=device, held_out=held_out, patience=patience, batch_tokens=batch_tokens, start=start, **special,
            say=lambda text: console.print(text, markup=False),
            show=lambda step, steps, loss: bar.update(task, completed=step, total=steps, loss=f"{loss:.4f}"),
        )  # fmt: skip
    console.print(f"adapter {name} of {base} is in {result}; requests choose it by name", markup=False)


@app.command("remove-adapter")
def remove_adapter(
    base: Annotated[str, typer.Argument(help="A generator of the catalogue.")],
    name: Annotated[str, typer.Argument(help="The adapter's name; `genmesh-models list` has them.")],
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
) -> None:
    """Serve an adapter no more, at once; requests that run on it go on."""
    (entry,) = chosen(catalogue, [base])
    lora.remove(entry, name, into)
    console.print(f"adapter {name} of {base} is gone", markup=False)


@app.command("add-adapter")
def add_adapter(
    base: Annotated[str, typer.Argument(help="A generator of the catalogue.")],
    name: Annotated[str, typer.Argument(help="The adapter's name, which requests give.")],
    folder: Annotated[Path, typer.Argument(help="adapter_config.json and adapter_model.safetensors, as PEFT writes them.")],
    into: Into = DEFAULT_INTO,
    catalogue: CatalogueFile = DEFAULT_CATALOGUE,
) -> None:  # fmt: skip
    """Serve a LoRA adapter that was trained elsewhere on a generator's checkpoint, at once and without a restart."""
    (entry,) = chosen(catalogue, [base])
    result = lora.add(entry, name, folder, into)
    console.print(f"adapter {name} of {base} is in {result}; requests choose it by name", markup=False)


def main() -> None:
    try:
        app()
    except BuildError as failure:
        sys.exit(str(failure))
    except Exception as failure:  # libraries raise what they like about a checkpoint, an adapter or a full disk
        sys.exit(sentence(failure))


if __name__ == "__main__":
    main()
