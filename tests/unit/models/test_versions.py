"""Versions side by side on the disk: whole or not there, one active, the old one kept."""

import json
from pathlib import Path

import pytest
from genmesh_models import control, versions
from genmesh_models.errors import BuildError

CONFIG = 'name: "embedder"\nbackend: "python"\n'


@pytest.fixture
def template(tmp_path: Path) -> Path:
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    return folder


def place(tmp_path: Path, template: Path, name: str = "mine") -> tuple[Path, int]:
    staged = tmp_path / "staged"
    (staged / "weights").mkdir(parents=True)
    (staged / "weights" / "file").write_text("x")
    model = tmp_path / "models" / name
    return model, versions.place(staged, template, model, name, {"revision": "r"})


def allowed(model: Path) -> str:
    return (model / "config.pbtxt").read_text().splitlines()[-1]


def test_a_placed_version_waits_until_it_is_activated(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    assert (model / "config.pbtxt").read_text().startswith('name: "mine"\n')
    _, second = place(tmp_path, template)
    assert (first, second) == (1, 2)
    assert json.loads((model / "model.json").read_text())["version"] == "1"
    assert allowed(model) == "version_policy { specific { versions: [ 1 ] } }"
    versions.activate(model, second, None)
    assert json.loads((model / "model.json").read_text())["version"] == "2"
    assert allowed(model) == "version_policy { specific { versions: [ 2 ] } }"


def test_rollback_goes_back_and_says_where_it_cannot(tmp_path: Path, template: Path) -> None:
    with pytest.raises(BuildError, match="nothing is built"):
        versions.rollback(tmp_path / "models" / "mine", None)
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    with pytest.raises(BuildError, match="no version before 1"):
        versions.rollback(model, None)
    _, second = place(tmp_path, template)
    versions.activate(model, second, None)
    assert versions.rollback(model, None) == 1
    assert versions.rollback(model, None, to=2) == 2
    with pytest.raises(BuildError, match="there is no version 7; there is 1, 2"):
        versions.rollback(model, None, to=7)


def test_prune_keeps_the_active_version_and_the_newest_other(tmp_path: Path, template: Path) -> None:
    for _ in range(4):
        model, number = place(tmp_path, template)
        versions.activate(model, number, None)
    versions.activate(model, 2, None)
    versions.prune(model)
    assert versions.versions(model) == [2, 4]
    assert {p.name for p in model.iterdir()} == {"2", "4", "config.pbtxt", "model.json"}
    _, number = place(tmp_path, template)
    assert number == 5


def test_a_version_that_triton_does_not_load_leaves_all_as_it_was(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    _, second = place(tmp_path, template)
    asked = []

    def load(url: str, name: str, numbers: list[int]) -> None:
        asked.append((numbers, allowed(model)))
        if numbers == [2]:
            raise BuildError("mine: Triton does not serve it: no such file")

    monkeypatch.setattr(control, "load", load)
    with pytest.raises(BuildError, match="no such file"):
        versions.activate(model, second, "host:1")
    assert asked == [
        ([2], "version_policy { specific { versions: [ 1, 2 ] } }"),
        ([1], "version_policy { specific { versions: [ 1 ] } }"),
    ]
    assert json.loads((model / "model.json").read_text())["version"] == "1"
    versions.discard(model, second)
    assert versions.versions(model) == [1]
    versions.discard(model, first)  # the one that answers is never deleted
    assert versions.versions(model) == [1]


def test_services_turn_to_the_new_card_while_both_versions_answer(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    _, second = place(tmp_path, template)
    seen = []

    def load(url: str, name: str, numbers: list[int]) -> None:
        seen.append((allowed(model), json.loads((model / "model.json").read_text())["version"]))

    monkeypatch.setattr(control, "load", load)
    monkeypatch.setattr(versions, "OVERLAP_SECONDS", 0.0)
    versions.activate(model, second, "host:1")
    assert seen == [
        ("version_policy { specific { versions: [ 1, 2 ] } }", "1"),
        ("version_policy { specific { versions: [ 2 ] } }", "2"),
    ]
