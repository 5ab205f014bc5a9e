"""A new version takes over while requests run; one that cannot be served changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from genmesh.errors import GenmeshError

from tests.e2e.changing import Changing, genmesh_models
from tests.processes import command_lines
from tests.waiting import until

TOKENS = 20


def running_versions(changing: Changing) -> list[str]:
    """The version of each process that Triton has for the generator."""
    model = f"{changing.models}/generator/"
    words = [word for words in command_lines().values() for word in words if word.startswith(model)]
    return [word.removeprefix(model).split("/")[0] for word in words]


class Load:
    """Streams and whole calls from several clients, again and again; what failed, and which revisions answered."""

    def __init__(self, changing: Changing) -> None:
        self.changing, self.over = changing, threading.Event()
        self.failures: list[str] = []
        self.revisions: list[str] = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]

    def _run(self, number: int) -> None:
        with self.changing.client() as client:
            while not self.over.is_set():
                try:
                    request = {"prompt": "seven wizards brew", "sampling": {"max_tokens": TOKENS, "ignore_eos": True}}
                    streams = client.generation.StreamGenerate
                    last = list(streams(request))[-1] if number % 2 else client.generation.Generate(request)
                    if last.usage.output_tokens != TOKENS:
                        self.failures.append(f"{last.usage.output_tokens} tokens")
                    self.revisions.append(last.model_revision)
                except GenmeshError as failure:
                    self.failures.append(f"{failure.reason}: {failure}")
                time.sleep(0.4)  # leaves the build most of two cores

    def more(self, revision: str, count: int = 12) -> None:
        """Wait until the latest answers are all of one revision."""
        seen = len(self.revisions)
        until(
            lambda: len(self.revisions) >= seen + count and set(self.revisions[-count:]) == {f"generator@{revision}"},
            300,
        )

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
    changing: Changing, checkpoints: Path
) -> None:
    with changing.client() as client, Load(changing) as load:
        old = changing.answers(client, "generator")
        load.more(old.revision)
        changing.build(generator=checkpoints / "llama")
        new = changing.answers(client, "generator")
        load.more(new.revision)
        changing.go_to("generator", old.version)
        changing.answers(client, "generator")
        load.more(old.revision)
        # Without Triton's address a version waits on the disk: services keep to what Triton has, until it is told.
        untold = genmesh_models("rollback", "generator", "--to", new.version, "--into", changing.models)
        assert untold.returncode == 0, untold.stderr
        assert f"genmesh-models rollback generator --to {new.version} --triton" in untold.stdout
        load.more(old.revision, 24)
        kept = client.models.GetModel({"name": "generator"}).model
        assert (kept.version, kept.ready) == (old.version, True)
        changing.go_to("generator", new.version)
        changing.answers(client, "generator")
        changing.go_to("generator", old.version)
        back = changing.answers(client, "generator")
        load.more(old.revision)
    assert not load.failures, load.failures[:5]
    assert (int(new.version) > int(old.version), new.context_tokens) == (True, 512)
    assert (back.version, back.revision) == (old.version, old.revision)
    assert set(load.revisions) == {f"generator@{old.revision}", f"generator@{new.revision}"}
    until(lambda: running_versions(changing) == [old.version], 300)  # processes of unloaded versions end


@pytest.mark.timeout(900)
def test_a_version_that_triton_cannot_load_leaves_the_old_one_answering(changing: Changing) -> None:
    """The fault: its weights are gone from the disk."""
    before = changing.card("generator")
    broken = changing.models / "generator" / "99"
    with changing.client() as client, Load(changing) as load:
        load.more(before["revision"])
        shutil.copytree(broken.parent / before["version"], broken)
        (broken / "weights" / "openvino_model.bin").write_bytes(b"")
        facts = json.loads((broken / "card.json").read_text()) | {"version": "99", "revision": "broken"}
        facts["files"]["openvino_model.bin"] = hashlib.sha256().hexdigest()  # as if it had been built so
        (broken / "card.json").write_text(json.dumps(facts))
        done = changing.command("rollback", "generator", "--to", "99")
        shutil.rmtree(broken)
        load.more(before["revision"])
        assert changing.answers(client, "generator").version == before["version"]
    assert done.returncode == 1
    assert "Triton at" in done.stderr
    assert not load.failures, load.failures[:5]
    assert changing.card("generator") == before
