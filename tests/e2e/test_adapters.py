"""LoRA adapters: trained or taken from elsewhere, served at once, chosen by name."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from genmesh import Client
from genmesh.errors import GenmeshError, NotFound, ResourceExhausted

from tests.e2e.changing import CATALOGUE, LONG, Changing, genmesh_models, sources_of
from tests.figures import Figure
from tests.metrics import scrape
from tests.waiting import until

# Without what `make models` merges into it.
REAL = {"generator": yaml.safe_load(CATALOGUE.read_text())["generator"]["source"]}
QUESTION = "Tell me about rivers."


def chats(path: Path, answer: str, count: int) -> Path:
    """Chats that teach one answer to a few questions."""
    questions = [f"Tell me about {thing}." for thing in ("rivers", "stones", "the old mill", "seven boats")]
    path.write_text(
        "\n".join(
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]})
            for q in questions * count
        )
    )
    return path


def asked(adapter: str, question: str = QUESTION) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}], "adapter": adapter, "sampling": {"max_tokens": 30}}


def wait_for(client: Client, names: set[str]) -> None:
    """Services look for new adapters each second."""
    until(lambda: set(client.models.GetModel({"name": "generator"}).model.adapters) == names, 300)


def remove(changing: Changing, name: str) -> None:
    done = genmesh_models("remove-adapter", "generator", name, "--into", changing.models)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def no_adapter_stays(changing: Changing) -> Iterator[None]:
    yield
    for folder in (changing.models / "generator" / "adapters").glob("[a-z]*"):
        remove(changing, folder.name)
    with changing.client() as client:
        wait_for(client, set())


@pytest.mark.timeout(600)
def test_an_adapter_is_served_at_once_and_no_more_when_it_is_removed(changing: Changing, tmp_path: Path) -> None:
    """Two epochs teach nothing; what a trained one says is tested nightly."""
    data = chats(tmp_path / "chats.jsonl", "Aye, the harbour is open.", 1)
    changing.finetune("harbour", data, "--epochs", "2", "--rank", "4")
    with changing.client() as client:
        wait_for(client, {"harbour"})
        for adapter in ("harbour", ""):
            assert client.generation.Chat(asked(adapter)).usage.output_tokens > 0
        make_room(changing, client)
        remove(changing, "harbour")
        wait_for(client, set())
        for adapter in ("harbour", "nobody"):
            with pytest.raises(NotFound) as failure:
                client.generation.Chat(asked(adapter))
            assert failure.value.reason == "ADAPTER_NOT_FOUND"
            assert failure.value.metadata["adapter"] == adapter


def make_room(changing: Changing, client: Client) -> None:
    """More adapters than are held: while all are in use the next one is refused, then it takes an idle one's place, and
    the base's stream and the counters go on as if nothing were."""
    folder = changing.models / "generator" / "adapters"
    limit = client.models.GetModel({"name": "generator"}).model.limits.adapters
    names = ["harbour", *(f"copy-{number}" for number in range(limit))]
    for name in names[1:]:
        shutil.copytree(folder / "harbour", folder / f".{name}")
        (folder / f".{name}").rename(folder / name)
    wait_for(client, set(names))

    for name in names[:limit]:
        assert client.generation.Chat(asked(name)).usage.output_tokens
    before = counters(changing)
    # Those of the adapters are longer than anyone waits: all of them run when the next one asks.
    streams = [
        client.generation.StreamChat(
            asked(name) | {"sampling": {"max_tokens": LONG - 500 if name else 800, "ignore_eos": True}}
        )
        for name in ["", *names[:limit]]
    ]
    base, *others = map(iter, streams)
    for iterator in (base, *others):
        next(iterator)
    with pytest.raises(ResourceExhausted) as refused:
        client.generation.Chat(asked(names[limit]))
    assert refused.value.reason == "ADAPTERS_BUSY"
    assert refused.value.retry_after_seconds
    for stream in streams[1:]:
        stream.cancel()

    def served() -> bool:
        try:
            return bool(client.generation.Chat(asked(names[limit])).usage.output_tokens)
        except ResourceExhausted:
            return False

    until(served)
    assert list(base)[-1].usage.output_tokens == 800
    after = counters(changing)
    assert all(after[name] >= value for name, value in before.items())
    assert after["genmesh_generator_cancelled_requests_total"] > before["genmesh_generator_cancelled_requests_total"]
    for name in names[1:]:
        shutil.rmtree(folder / name)
    wait_for(client, {"harbour"})


def counters(changing: Changing) -> dict[str, float]:
    """What Triton counted of the generator."""
    found = scrape(changing.cluster.ports["triton_metrics"])
    return {name: value for (name, _), value in found.items() if re.fullmatch("genmesh_generator_.*_total", name)}


def likeness(a: str, b: str) -> float:
    """0 to 1, as difflib measures it."""
    return difflib.SequenceMatcher(None, a, b).ratio()


def at_the_same_time(changing: Changing, adapters: list[str]) -> dict[str, str]:
    """The answer of each adapter, asked often by two clients each."""
    found: dict[str, set[str]] = {name: set() for name in adapters}
    failures: list[str] = []

    def ask(adapter: str) -> None:
        with changing.client() as client:
            for _ in range(5):
                try:
                    found[adapter].add(client.generation.Chat(asked(adapter)).message.content.strip())
                except GenmeshError as failure:
                    failures.append(str(failure))

    threads = [threading.Thread(target=ask, args=(adapter,)) for adapter in adapters for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(len(answers) == 1 for answers in found.values()), found
    return {name: answers.pop() for name, answers in found.items()}


@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_adapters_are_trained_and_chosen_by_name_beside_the_base(
    changing: Changing, tmp_path: Path, figure: Figure
) -> None:
    """LoRA and QLoRA on the catalogue's generator: each teaches an answer; base and both are used at the same time."""
    said = {"plain": "Aye, the harbour is open.", "fourbit": "No, the tower is locked."}
    with changing.swapped(CATALOGUE, **REAL) as client:
        for name, answer in said.items():
            done = genmesh_models(
                "finetune", "generator", name, "--data", chats(tmp_path / f"{name}.jsonl", answer, 10), "--into",
                changing.models, "--epochs", "20", "--rate", "0.01", *(["--qlora"] if name == "fourbit" else []),
                **sources_of(REAL),
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        wait_for(client, set(said))
        given = at_the_same_time(changing, ["", *said])
        # The adapter of a base in 4 bits meets one in 8, so a letter may differ from what it was taught.
        for name, answer in said.items():
            figure(f"adapter {name}: likeness of its answer to what it was taught", likeness(given[name], answer))
            assert likeness(given[name], answer) > 0.8, given
        assert all(likeness(given[""], answer) < 0.6 for answer in said.values()), given
        from_elsewhere(changing, client, tmp_path, said)


def from_elsewhere(changing: Changing, client: Client, tmp_path: Path, said: dict[str, str]) -> None:
    """PEFT's folders, more of them than are held at a time; one of them is replaced by another while it is loaded."""
    trained = changing.models / "generator" / "adapters"
    for name in said:
        shutil.copytree(trained / name, tmp_path / name, ignore=shutil.ignore_patterns("adapter.json", "README.md"))

    def add(name: str, folder: str) -> subprocess.CompletedProcess[str]:
        return genmesh_models(
            "add-adapter", "generator", name, tmp_path / folder, "--into", changing.models, **sources_of(REAL)
        )

    def ask(name: str) -> str:
        return client.generation.Chat(asked(name)).message.content.strip()

    names = [
        f"taken-{number}" for number in range(client.models.GetModel({"name": "generator"}).model.limits.adapters + 1)
    ]
    for name in names:
        done = add(name, "plain")
        assert done.returncode == 0, done.stderr
    wait_for(client, {*said, *names})
    for name in [*names, names[0]]:  # the first one's engine made room for the last one's
        assert likeness(ask(name), said["plain"]) > 0.8, name
    assert add(names[0], "fourbit").returncode == 0
    until(lambda: likeness(ask(names[0]), said["fourbit"]) > 0.8)
    # How much it counts is its configuration's to say: with next to no alpha it is the base that answers.
    shutil.copytree(tmp_path / "plain", tmp_path / "faint")
    config = tmp_path / "faint" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1e-4}))
    assert add("faint", "faint").returncode == 0
    wait_for(client, {*said, *names, "faint"})
    assert likeness(ask("faint"), said["plain"]) < 0.6
    # No engine that came or went made a counter fall, which Triton refuses.
    assert "Failed to increment" not in (changing.cluster.layout.logs / "triton.log").read_text()
    config = tmp_path / "plain" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    assert "an adapter of type 'IA3'; LORA is served" in add("other", "plain").stderr


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_gpt2_learns_an_adapter(changing: Changing, all_checkpoints: Path, tmp_path: Path) -> None:
    """LoRA fits other architectures than the starter's too; GPT-2 keeps its weights the other way round."""
    source = {"generator": all_checkpoints / "gpt2"}
    question, answer = "the quick brown fox", "old bridges brew strong potions"
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": chat}) + "\n") * 8)
    with changing.swapped(**source) as client:
        done = genmesh_models(
            "finetune", "generator", "bridges", "--data", tmp_path / "chats.jsonl", "--into", changing.models,
            "--epochs", "120", "--rate", "1e-2", **sources_of(source),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(client, {"bridges"})
        assert answer in client.generation.Chat(asked("bridges", question)).message.content, done.stdout
        assert answer not in client.generation.Chat(asked("", question)).message.content
