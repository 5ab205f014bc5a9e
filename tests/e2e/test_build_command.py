"""`genmesh-models` on repositories that no Triton serves: it adds, lists, builds, verifies, and refuses with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.e2e.changing import CATALOGUE, COMMAND, UNTRAINED, catalogue_for, genmesh_models

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds are what is tested: none is taken from the machine's cache."""
    monkeypatch.setenv("GENMESH_CACHE", str(tmp_path / "genmesh-cache"))


def test_a_build_that_was_killed_goes_on(all_checkpoints: Path, tmp_path: Path) -> None:
    """Only its command is killed; what that started ends with it. What is exported or quantized is so once."""
    into = tmp_path / "models"
    catalogue = catalogue_for(tmp_path / "models.yaml", generator={"precision": "int8", "verify": UNTRAINED})
    options = ["--into", into, "generator", "--catalogue", catalogue]
    source = {"GENMESH_GENERATOR_SOURCE": str(all_checkpoints / "llama")}
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


def test_add_and_list(all_checkpoints: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "models.yaml"
    shutil.copy(CATALOGUE, catalogue)
    added = genmesh_models(
        "add", "words", "--task", "embed", "--source", all_checkpoints / "glove", "--catalogue", catalogue
    )
    assert added.returncode == 0, added.stderr
    done = genmesh_models("build", "words", "--into", tmp_path / "models", "--catalogue", catalogue)
    assert done.returncode == 0, done.stderr
    listed = genmesh_models("list", "--into", tmp_path / "models", "--catalogue", catalogue)
    assert "words" in listed.stdout
    assert "not built" in listed.stdout
    vectors = all_checkpoints / "glove" / "vectors.txt"
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
    shutil.copytree(all_checkpoints / "llama", tmp_path / "cut")
    file = next((tmp_path / "cut").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    for source, task, said in (
        (tmp_path / "notes", "embed", "holds no weights (*.safetensors, vectors.txt"),
        (tmp_path / "empty", "embed", "vectors.txt is empty"),
        (tmp_path / "cut", "generate", "is damaged or cut short"),
        (all_checkpoints / "llama", "embed", "holds a checkpoint of type 'llama'; encoders may be of"),
        (all_checkpoints / "llama", "diffuse", "model_index.json is missing"),
    ):
        refused = genmesh_models("add", "wrong", "--task", task, "--source", source, "--catalogue", catalogue)
        assert refused.returncode == 1
        assert said in refused.stderr
    assert catalogue.read_text() == before
    twice = genmesh_models(
        "add", "words", "--task", "embed", "--source", all_checkpoints / "glove", "--catalogue", catalogue
    )
    assert "has a model of that name already" in twice.stderr


def test_two_builds_at_once_make_one_version(all_checkpoints: Path, tmp_path: Path) -> None:
    environment = os.environ | {"GENMESH_EMBEDDER_SOURCE": str(all_checkpoints / "glove")}
    command = [str(COMMAND), "build", "embedder", "--into", str(tmp_path / "models")]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("up to date" in text for text in said) == [False, True]
    assert (tmp_path / "models" / "embedder" / "1").is_dir()
    assert not (tmp_path / "models" / "embedder" / "2").exists()


def test_a_model_that_fails_keeps_no_other_from_being_built(all_checkpoints: Path, tmp_path: Path) -> None:
    done = genmesh_models(
        "build", "generator", "embedder", "--into", tmp_path / "models",
        GENMESH_GENERATOR_SOURCE=str(tmp_path / "nowhere"), GENMESH_EMBEDDER_SOURCE=str(all_checkpoints / "glove"),
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
    shutil.copy(CATALOGUE, catalogue)
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


def test_what_gpus_take_instead_is_added_too(all_checkpoints: Path, tmp_path: Path) -> None:
    quantized = all_checkpoints / "llama-awq"
    catalogue = tmp_path / "models.yaml"
    shutil.copy(CATALOGUE, catalogue)
    added = genmesh_models(
        "add", "big", "--task", "generate", "--source", all_checkpoints / "llama", "--gpu-source", quantized,
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
        "add", "huge", "--task", "generate", "--source", all_checkpoints / "llama", "--gpu-precision", "int3",
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
