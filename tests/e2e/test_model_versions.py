"""A new version takes over while requests run; one that cannot be served changes nothing; builds resume; adapters."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
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
    """Streams and whole calls from several clients, again and again; what failed, and which revisions answered."""

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
                time.sleep(0.1)  # leaves the build a share of two cores

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.timeout(900)
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
        # Without Triton's address a version waits on the disk: services keep to what Triton has, until it is told.
        again = ["rollback", "generator", "--to", new.version, "--into", cluster.layout.models]
        untold = genmesh_models(*again)
        assert untold.returncode == 0, untold.stderr
        assert f"genmesh-models rollback generator --to {new.version} --triton" in untold.stdout
        time.sleep(3)
        kept = client.models.GetModel({"name": "generator"}).model
        told = genmesh_models(*again, "--triton", triton)
        assert told.returncode == 0, told.stderr
        turned = client.models.GetModel({"name": "generator"}).model
        back = genmesh_models("rollback", "generator", "--to", old.version, *again[-2:], "--triton", triton)
        assert back.returncode == 0, back.stderr
        time.sleep(2)
    assert (kept.version, kept.ready, turned.version, turned.ready) == (old.version, True, new.version, True)
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


@pytest.mark.timeout(900)
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
        facts["files"]["openvino_model.bin"] = hashlib.sha256().hexdigest()  # as if it had been built so
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


@pytest.mark.timeout(900)
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
    from_elsewhere(cluster, client, tmp_path, said)


def from_elsewhere(cluster: Cluster, client: Client, tmp_path: Path, said: dict[str, str]) -> None:
    """PEFT's folders, more of them than are held at a time; one of them is replaced by another while it is loaded."""
    trained = cluster.layout.models / "generator" / "adapters"
    for name in said:
        shutil.copytree(trained / name, tmp_path / name, ignore=shutil.ignore_patterns("adapter.json", "README.md"))

    def add(name: str, folder: str) -> subprocess.CompletedProcess[str]:
        return genmesh_models("add-adapter", "generator", name, tmp_path / folder, "--into", cluster.layout.models)

    def ask(name: str) -> str:
        request = {"messages": [{"role": "user", "content": "Tell me about rivers."}], "sampling": {"max_tokens": 30}}
        return client.generation.Chat(request | {"adapter": name}).message.content.strip()

    names = [
        f"taken-{number}" for number in range(client.models.GetModel({"name": "generator"}).model.limits.adapters + 1)
    ]
    for name in names:
        done = add(name, "plain")
        assert done.returncode == 0, done.stderr
    time.sleep(1.2)
    for name in [*names, names[0]]:  # the first one's engine made room for the last one's
        assert likeness(ask(name), said["plain"]) > 0.8, name
    assert add(names[0], "fourbit").returncode == 0
    assert likeness(ask(names[0]), said["fourbit"]) > 0.8
    # How much it counts is its configuration's to say: with next to no alpha it is the base that answers.
    shutil.copytree(tmp_path / "plain", tmp_path / "faint")
    config = tmp_path / "faint" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1e-4}))
    assert add("faint", "faint").returncode == 0
    time.sleep(1.2)
    assert ask("faint") == ask("")
    # No engine that came or went made a counter fall, which Triton refuses.
    assert "Failed to increment" not in (cluster.layout.logs / "triton.log").read_text()
    config = tmp_path / "plain" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    assert "an adapter of type 'IA3'; LORA is served" in add("other", "plain").stderr


@pytest.mark.timeout(900)
def test_a_build_that_was_killed_goes_on(checkpoints: Path, tmp_path: Path) -> None:
    """Only its command is killed; what that started ends with it. What is exported or quantized is so once."""
    into, catalogue = tmp_path / "models", tmp_path / "models.yaml"
    entries = yaml.safe_load((ROOT / "model_repository" / "models.yaml").read_text())
    entries["generator"] |= {"precision": "int8", "verify": {"top1_agreement": 0.1, "perplexity_ratio": 2}}
    catalogue.write_text(yaml.safe_dump(entries, sort_keys=False))
    options = ["--into", into, "generator", "--catalogue", catalogue]
    source = {"GENMESH_GENERATOR_SOURCE": str(checkpoints / "llama")}
    logs = ""
    for mark in ("weights.exported", "openvino_model.done.calibrated"):
        running = subprocess.Popen([COMMAND, "build", *map(str, options)], env=os.environ | source)
        limit = time.monotonic() + 200
        while not (tmp_path / "building" / "generator" / "version" / mark).is_file():
            assert running.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        running.kill()
        running.wait()
        logs += (tmp_path / "building" / "generator.log").read_text()
        assert not (into / "generator").exists()  # nothing of it is visible to Triton
    done = genmesh_models("build", *options, **source)
    assert done.returncode == 0, done.stderr
    logs += (tmp_path / "building" / "generator.log").read_text()
    assert logs.count("goes on with a build that was broken off") == 2
    assert logs.count("the export is there already") == 2
    assert logs.count("it is calibrated already") == 1
    assert (into / "generator" / "1" / "card.json").is_file()
    # Verification of what stands there: whole, then with a byte changed.
    assert genmesh_models("verify", *options, **source).returncode == 0
    weights = into / "generator" / "1" / "weights" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    changed = genmesh_models("verify", *options, **source)
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
    fast = tmp_path / "fast"
    fast.mkdir()
    (fast / "cc.en.50.vec").write_text(text)
    again = genmesh_models("add", "fast", "--task", "embed", "--source", fast, "--catalogue", catalogue)
    assert again.returncode == 0, again.stderr
    done = genmesh_models("build", "fast", "--into", tmp_path / "models", "--catalogue", catalogue)
    assert done.returncode == 0, done.stderr
    before = catalogue.read_text()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("not weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "vectors.txt").touch()
    shutil.copytree(checkpoints / "llama", tmp_path / "cut")
    file = next((tmp_path / "cut").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    for source, task, said in (
        (tmp_path / "notes", "embed", "holds no weights (*.safetensors, vectors.txt"),
        (tmp_path / "empty", "embed", "vectors.txt is empty"),
        (tmp_path / "cut", "generate", "is damaged or cut short"),
        (checkpoints / "llama", "embed", "holds a checkpoint of type 'llama'; encoders may be of"),
        (checkpoints / "llama", "diffuse", "model_index.json is missing"),
    ):
        refused = genmesh_models("add", "wrong", "--task", task, "--source", source, "--catalogue", catalogue)
        assert refused.returncode == 1
        assert said in refused.stderr
    assert catalogue.read_text() == before
    twice = genmesh_models(
        "add", "words", "--task", "embed", "--source", checkpoints / "glove", "--catalogue", catalogue
    )
    assert "has a model of that name already" in twice.stderr


def test_two_builds_at_once_make_one_version(checkpoints: Path, tmp_path: Path) -> None:
    environment = os.environ | {"GENMESH_EMBEDDER_SOURCE": str(checkpoints / "glove")}
    command = [str(COMMAND), "build", "embedder", "--into", str(tmp_path / "models")]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("up to date" in text for text in said) == [False, True]
    assert (tmp_path / "models" / "embedder" / "1").is_dir()
    assert not (tmp_path / "models" / "embedder" / "2").exists()


def test_a_model_that_fails_keeps_no_other_from_being_built(checkpoints: Path, tmp_path: Path) -> None:
    done = genmesh_models(
        "build", "generator", "embedder", "--into", tmp_path / "models",
        GENMESH_GENERATOR_SOURCE=str(tmp_path / "nowhere"), GENMESH_EMBEDDER_SOURCE=str(checkpoints / "glove"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "generator: there is no folder" in done.stderr
    assert "embedder version 1 built" in done.stdout
    assert (tmp_path / "models" / "embedder" / "model.json").is_file()


class Hub(BaseHTTPRequestHandler):
    """What the model hub says of one model; ``folder`` has its files."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, *, head: bool) -> None:
        names = [path.name for path in self.folder.iterdir()]
        kind, body, headers = "application/json", b"", {"X-Error-Code": "RepoNotFound"}
        if self.path.startswith("/api/models/mine/words/revision/"):
            said = {"id": "mine/words", "sha": "1" * 40, "siblings": [{"rfilename": name} for name in names]}
            body, headers = json.dumps(said).encode(), {}
        elif (name := self.path.rpartition("/")[2]) in names and self.path.startswith("/mine/words/resolve/"):
            body, kind = (self.folder / name).read_bytes(), "application/octet-stream"
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": "1" * 40}
        self.send_response(200 if body else 404)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not to the tests' output."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "on the hub"
    folder.mkdir()
    (folder / "vectors.txt").write_text("red 1.0 0.0\nblue 0.0 1.0\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Words", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_source_on_the_hub_is_downloaded_once(hub: str, tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache")}
    catalogue = tmp_path / "models.yaml"
    shutil.copy(ROOT / "model_repository" / "models.yaml", catalogue)
    options = ["--catalogue", catalogue]
    done = genmesh_models("add", "words", "--task", "embed", "--source", "hub:mine/words@main", *options, **environment)
    assert done.returncode == 0, done.stderr
    entry = yaml.safe_load(catalogue.read_text())["words"]
    assert list(entry["sha256"]) == ["vectors.txt"]
    assert entry["gpu"] == {"precision": "fp16"}
    built = genmesh_models("build", "words", "--into", tmp_path / "models", *options, **environment)
    assert built.returncode == 0, built.stderr
    missing = genmesh_models("add", "more", "--task", "embed", "--source", "hub:mine/other", *options, **environment)
    assert "the hub has no model mine/other" in missing.stderr
    # Where the hub is away, what was downloaded is there.
    again = genmesh_models(
        "verify",
        "words",
        "--into",
        tmp_path / "models",
        *options,
        **environment | {"HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert again.returncode == 0, again.stderr


def test_what_gpus_take_instead_is_added_too(checkpoints: Path, tmp_path: Path) -> None:
    quantized = checkpoints / "llama-awq"
    catalogue = tmp_path / "models.yaml"
    shutil.copy(ROOT / "model_repository" / "models.yaml", catalogue)
    added = genmesh_models(
        "add", "big", "--task", "generate", "--source", checkpoints / "llama", "--gpu-source", quantized,
        "--gpu-precision", "awq", "--catalogue", catalogue,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    special = yaml.safe_load(catalogue.read_text())["big"]["gpu"]
    assert (special["precision"], special["source"], special["max_batched_tokens"]) == ("awq", str(quantized), 8192)
    assert list(special["sha256"]) == ["model.safetensors"]
    # Nets drawn at random have near ties everywhere: the default bounds say nothing of them.
    entries = yaml.safe_load(catalogue.read_text())
    entries["big"]["verify"] = {"top1_agreement": 0.1}
    catalogue.write_text(yaml.safe_dump(entries, sort_keys=False))
    built = genmesh_models("build", "big", "--profile", "gpu", "--into", tmp_path / "gpu", "--catalogue", catalogue)
    assert built.returncode == 0, built.stderr
    # What 4 bits cost, against the full weights that the entry names for CPUs; chance would be 1 of 600.
    card = json.loads((tmp_path / "gpu" / "big" / "model.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in card["verification"]}
    assert 0.1 < figures["top1_agreement"] < 1
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=0.05)
    # Fewer bits are made of full weights.
    refused = genmesh_models(
        "build", "generator", "--into", tmp_path / "models", GENMESH_GENERATOR_SOURCE=str(quantized)
    )
    assert "is quantized already (awq)" in refused.stderr
    wrong = genmesh_models(
        "add", "huge", "--task", "generate", "--source", checkpoints / "llama", "--gpu-precision", "int3",
        "--catalogue", catalogue,
    )  # fmt: skip
    assert "precision 'int3' is not supported for generate on a gpu" in wrong.stderr


def test_a_hub_that_cannot_be_reached_is_a_sentence(tmp_path: Path) -> None:
    done = genmesh_models(
        "build", "embedder", "--into", tmp_path / "models",
        GENMESH_EMBEDDER_SOURCE="hub:nobody/nothing", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the model hub cannot be reached" in done.stderr
    assert "GENMESH_EMBEDDER_SOURCE=/path/to/checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
