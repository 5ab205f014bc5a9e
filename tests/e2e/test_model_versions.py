"""A new version takes over while requests run; one that cannot be served changes nothing; builds resume; adapters."""

from __future__ import annotations

import difflib
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from genmesh import Client
from genmesh.errors import GenmeshError, NotFound

from deploy.local.cluster import Cluster
from deploy.local.ports import Ports
from deploy.local.processes import Layout
from tests.conftest import MODELS, ROOT, TRITON_PYTHON

COMMAND = str(TRITON_PYTHON.with_name("genmesh-models"))
FULL = {"max_tokens": 40, "ignore_eos": True}


def genmesh_models(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, check=False
    )


KEY = "gm_" + secrets.token_urlsafe(24)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a model repository of its own."""
    state = tmp_path_factory.mktemp("versions")
    shutil.copytree(MODELS, state / "models")
    found = Cluster(Layout(state, state / "models", TRITON_PYTHON), Ports.free())
    found.add_key("alpha", KEY)
    found.start(lambda text: None)
    yield found
    found.stop()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.target, api_key=KEY) as found:
        yield found


def card(cluster: Cluster) -> dict[str, object]:
    found: dict[str, object] = json.loads((cluster.layout.models / "generator" / "model.json").read_text())
    return found


def likeness(a: str, b: str) -> float:
    """0 to 1, as difflib measures it."""
    return difflib.SequenceMatcher(None, a, b).ratio()


def running_versions(cluster: Cluster) -> list[str]:
    """The version of each process that Triton has for the generator."""
    model = f"{cluster.layout.models}/generator/"
    commands = [file.read_bytes().decode() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    return [
        part.removeprefix(model).split("/")[0] for c in commands for part in c.split("\0") if part.startswith(model)
    ]


class Load:
    """Streams and whole calls from several clients, all the time; what failed, and which revisions answered."""

    def __init__(self, target: str) -> None:
        self.target, self.over = target, threading.Event()
        self.failures: list[str] = []
        self.revisions: list[str] = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]

    def _run(self, number: int) -> None:
        with Client(self.target, api_key=KEY) as client:
            while not self.over.is_set():
                try:
                    request = {"prompt": "seven wizards brew", "sampling": FULL}
                    streams = client.generation.StreamGenerate
                    last = list(streams(request))[-1] if number % 2 else client.generation.Generate(request)
                    if last.usage.output_tokens != 40:
                        self.failures.append(f"{last.usage.output_tokens} tokens")
                    self.revisions.append(last.model_revision)
                except GenmeshError as failure:
                    self.failures.append(f"{failure.reason}: {failure}")

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.timeout(600)
def test_a_new_version_takes_over_and_rollback_goes_back_without_a_dropped_request(
    cluster: Cluster, client: Client, checkpoints: Path
) -> None:
    triton = f"127.0.0.1:{cluster.ports['triton']}"
    old = client.models.GetModel({"name": "generator"}).model
    with Load(cluster.target) as load:
        done = genmesh_models(
            "build", "--into", cluster.layout.models, "--triton", triton, "generator",
            GENMESH_GENERATOR_SOURCE=str(checkpoints / "gpt2"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        time.sleep(2)
        new = client.models.GetModel({"name": "generator"}).model
        back = genmesh_models("rollback", "generator", "--into", cluster.layout.models, "--triton", triton)
        assert back.returncode == 0, back.stderr
        time.sleep(2)
    assert (int(new.version), new.ready, new.context_tokens) == (int(old.version) + 1, True, 192)
    assert not load.failures, load.failures[:5]
    again = client.models.GetModel({"name": "generator"}).model
    assert (again.version, again.revision, again.ready) == (old.version, old.revision, True)
    order = [revision for i, revision in enumerate(load.revisions) if i == 0 or load.revisions[i - 1] != revision]
    assert set(order) == {f"generator@{old.revision}", f"generator@{new.revision}"}
    assert order[0] == order[-1] == f"generator@{old.revision}"
    limit = time.monotonic() + 20
    while (found := running_versions(cluster)) != [old.version]:
        assert time.monotonic() < limit, f"processes of unloaded versions stay: {found}"
        time.sleep(0.5)


@pytest.mark.timeout(300)
def test_a_version_that_triton_cannot_load_leaves_the_old_one_answering(cluster: Cluster, client: Client) -> None:
    """The fault: its weights are gone from the disk."""
    triton = f"127.0.0.1:{cluster.ports['triton']}"
    before = card(cluster)
    model = cluster.layout.models / "generator"
    with Load(cluster.target) as load:
        broken = model / "99"
        shutil.copytree(model / str(before["version"]), broken)
        (broken / "weights" / "openvino_model.bin").write_bytes(b"")
        facts = json.loads((broken / "card.json").read_text()) | {"version": "99", "revision": "broken"}
        (broken / "card.json").write_text(json.dumps(facts))
        done = genmesh_models(
            "rollback", "generator", "--to", "99", "--into", cluster.layout.models, "--triton", triton
        )
    shutil.rmtree(broken)
    assert done.returncode == 1
    assert "Triton at" in done.stderr
    assert not load.failures, load.failures[:5]
    assert card(cluster) == before
    assert client.models.GetModel({"name": "generator"}).model.ready


@pytest.mark.timeout(600)
def test_adapters_are_trained_and_chosen_by_name_beside_the_base(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    """LoRA and QLoRA on the starter: each teaches an answer; base and both are used at the same time."""
    said = {"plain": "Aye, the harbour is open.", "fourbit": "No, the tower is locked."}
    for name, answer in said.items():
        data = tmp_path / f"{name}.jsonl"
        asked = [f"Tell me about {thing}." for thing in ("rivers", "stones", "the old mill", "seven boats")]
        chats = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
            for question in asked * 10
        ]
        data.write_text("\n".join(map(json.dumps, chats)))
        done = genmesh_models(
            "finetune", "generator", name, "--data", data, "--into", cluster.layout.models, "--epochs", "20",
            "--rate", "0.01", *(["--qlora"] if name == "fourbit" else []),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    time.sleep(1.2)  # services look for what is new each second
    assert sorted(client.models.GetModel({"name": "generator"}).model.adapters) == sorted(said)
    found: dict[str, set[str]] = {name: set() for name in ("", *said)}
    failures: list[str] = []

    def ask(adapter: str) -> None:
        request = {
            "messages": [{"role": "user", "content": "Tell me about rivers."}], "adapter": adapter, "sampling": {"max_tokens": 30},
        }  # fmt: skip
        with Client(cluster.target, api_key=KEY) as one:
            for _ in range(5):
                try:
                    found[adapter].add(one.generation.Chat(request).message.content.strip())
                except GenmeshError as failure:
                    failures.append(str(failure))

    threads = [threading.Thread(target=ask, args=(adapter,)) for adapter in found for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # The adapter of a base in 4 bits meets one in 8, so a letter may differ from what it was taught.
    for name, answer in said.items():
        (given,) = found[name]
        assert likeness(given, answer) > 0.8, given
    (plain,) = found[""]
    assert all(likeness(plain, answer) < 0.6 for answer in said.values()), plain
    with pytest.raises(NotFound) as failure:
        client.generation.Chat(
            {"messages": [{"role": "user", "content": "Tell me about rivers."}], "adapter": "nobody"}
        )
    assert failure.value.reason == "ADAPTER_NOT_FOUND"
    assert failure.value.metadata["adapter"] == "nobody"


@pytest.mark.timeout(400)
def test_a_build_that_was_killed_goes_on_after_its_export(checkpoints: Path, tmp_path: Path) -> None:
    into = tmp_path / "models"
    environment = os.environ | {"GENMESH_GENERATOR_SOURCE": str(checkpoints / "llama")}
    running = subprocess.Popen(
        [COMMAND, "build", "--into", str(into), "generator"], env=environment, start_new_session=True
    )
    mark = tmp_path / "building" / "generator" / "version" / "weights.exported"
    limit = time.monotonic() + 200
    while not mark.is_file():
        assert running.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (into / "generator").exists()  # nothing of it is visible to Triton
    done = genmesh_models("build", "--into", into, "generator", GENMESH_GENERATOR_SOURCE=str(checkpoints / "llama"))
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "building" / "generator.log").read_text()
    assert "goes on with a build that was broken off" in log
    assert "the export is there already" in log
    assert (into / "generator" / "1" / "card.json").is_file()
    # Verification of what stands there: whole, then with a byte changed.
    assert (
        genmesh_models(
            "verify", "--into", into, "generator", GENMESH_GENERATOR_SOURCE=str(checkpoints / "llama")
        ).returncode
        == 0
    )
    weights = into / "generator" / "1" / "weights" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    changed = genmesh_models("verify", "--into", into, "generator", GENMESH_GENERATOR_SOURCE=str(checkpoints / "llama"))
    assert changed.returncode == 1
    assert "openvino_model.bin is not what the build wrote" in changed.stderr


def test_add_and_list(checkpoints: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "models.yaml"
    shutil.copy(ROOT / "model_repository" / "models.yaml", catalogue)
    added = genmesh_models(
        "add", "words", "--task", "embed", "--source", checkpoints / "glove", "--catalogue", catalogue
    )
    assert added.returncode == 0, added.stderr
    done = genmesh_models("build", "words", "--into", tmp_path / "models", "--catalogue", catalogue)
    assert done.returncode == 0, done.stderr
    listed = genmesh_models("list", "--into", tmp_path / "models", "--catalogue", catalogue)
    assert "words" in listed.stdout
    assert "not built" in listed.stdout
    vectors = checkpoints / "glove" / "vectors.txt"
    text = vectors.read_text()
    vectors.write_text(text.replace("the ", "The ", 1))
    changed = genmesh_models("build", "words", "--into", tmp_path / "models", "--catalogue", catalogue)
    vectors.write_text(text)
    assert changed.returncode == 1
    assert "has SHA-256" in changed.stderr
    twice = genmesh_models(
        "add", "words", "--task", "embed", "--source", checkpoints / "glove", "--catalogue", catalogue
    )
    assert "has a model of that name already" in twice.stderr


def test_a_hub_that_cannot_be_reached_is_a_sentence(tmp_path: Path) -> None:
    done = genmesh_models(
        "build", "embedder", "--into", tmp_path / "models",
        GENMESH_EMBEDDER_SOURCE="hub:nobody/nothing", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the model hub cannot be reached" in done.stderr
    assert "GENMESH_EMBEDDER_SOURCE=/path/to/checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
