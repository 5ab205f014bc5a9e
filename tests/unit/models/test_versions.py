"""Versions side by side on the disk: whole or not there, one active, the old one kept."""

import json
import tempfile
from pathlib import Path

import pytest
from genmesh_models import control, sources, versions
from genmesh_models.errors import BuildError, NotLoaded

CONFIG = 'name: "embedder"\nbackend: "python"\n'


@pytest.fixture
def template(tmp_path: Path) -> Path:
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    return folder


def place(tmp_path: Path, template: Path, name: str = "mine", **facts: str) -> tuple[Path, int]:
    staged = tmp_path / "staged"
    (staged / "weights").mkdir(parents=True)
    (staged / "weights" / "file").write_text("x")
    (staged / "model.py").write_text("pass")
    model = tmp_path / "models" / name
    sums = {
        "files": sources.checksums(staged / "weights"), "code": {"model.py": sources.sha256(staged / "model.py")},
    }  # fmt: skip
    return model, versions.place(staged, template, model, name, {"revision": "r"} | sums | facts)


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


@pytest.mark.parametrize("file", ["weights/file", "model.py"])
def test_none_goes_back_to_a_version_that_is_damaged(tmp_path: Path, template: Path, file: str) -> None:
    for _ in range(2):
        model, number = place(tmp_path, template)
        versions.activate(model, number, None)
    (model / "1" / file).write_text("y")
    with pytest.raises(BuildError, match=rf"mine: version 1 is damaged: {file} is not what its build wrote.*no other"):
        versions.rollback(model, None)
    assert (versions.active(model) or {})["version"] == "2"


def test_a_version_that_takes_over_from_a_damaged_one_goes_back_past_it(tmp_path: Path, template: Path) -> None:
    for number in (1, 2, 3):
        model, placed = place(tmp_path, template)
        versions.activate(model, placed, None)
        versions.prune(model)
        if number == 2:
            (model / "2" / "weights" / "file").unlink()
    assert versions.versions(model) == [1, 3]
    assert versions.rollback(model, None) == 1


def test_once_more_activated_a_version_still_knows_the_one_before(tmp_path: Path, template: Path) -> None:
    """As where two builds wait for the same version."""
    for _ in range(2):
        model, number = place(tmp_path, template)
        versions.activate(model, number, None)
    versions.activate(model, 2, None)
    assert (versions.active(model) or {})["previous_version"] == 1


def test_the_version_that_triton_was_last_told_of_is_kept(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "loaded", lambda url, name: {1})
    monkeypatch.setattr(control, "load", lambda url, name, numbers: None)
    monkeypatch.setattr(versions, "OVERLAP_SECONDS", 0.0)
    for triton in ("host:1", None, None, None):
        model, number = place(tmp_path, template)
        versions.activate(model, number, triton)
        versions.prune(model)
    assert versions.versions(model) == [1, 3, 4]  # served, before, active
    versions.settle(model, "host:1")
    versions.prune(model)
    assert versions.versions(model) == [3, 4]


def test_a_damaged_version_that_triton_serves_is_not_loaded_again(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model's versions Triton loads all or none."""
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    (model / "1" / "weights" / "file").write_text("y")
    _, second = place(tmp_path, template)
    seen: list[str] = []
    monkeypatch.setattr(control, "loaded", lambda url, name: {first})
    monkeypatch.setattr(control, "load", lambda url, name, numbers: seen.append(allowed(model)))
    versions.activate(model, second, "host:1")
    assert seen == ["version_policy { specific { versions: [ 2 ] } }"]


def test_where_triton_ends_while_it_is_told_all_is_as_it_was(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    before = (model / "config.pbtxt").read_text(), (model / "model.json").read_text()
    _, second = place(tmp_path, template)

    def load(url: str, name: str, numbers: list[int]) -> None:
        raise NotLoaded("Triton does not answer" if numbers == [second] else "nor now")

    monkeypatch.setattr(control, "loaded", lambda url, name: {first})
    monkeypatch.setattr(control, "load", load)
    with pytest.raises(NotLoaded, match="does not answer"):
        versions.activate(model, second, "host:1")
    assert ((model / "config.pbtxt").read_text(), (model / "model.json").read_text()) == before


def test_a_build_that_someone_went_back_from_is_known(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template, build_key="a")
    versions.activate(model, first, None)
    _, second = place(tmp_path, template, build_key="b")
    versions.activate(model, second, None)
    assert versions.rolled_back(model) == {}
    versions.rollback(model, None)
    assert versions.rolled_back(model) == {2: "b"}


def test_a_first_version_that_does_not_come_to_answer_leaves_nothing(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template)
    versions.discard(model, first)
    assert not model.exists()


def test_prune_keeps_the_active_version_and_the_newest_other(tmp_path: Path, template: Path) -> None:
    for _ in range(4):
        model, number = place(tmp_path, template)
        versions.activate(model, number, None)
    versions.activate(model, 2, None)
    versions.prune(model)
    assert versions.versions(model) == [1, 2, 4]  # the first: no Triton was told of another yet
    assert {p.name for p in model.iterdir()} == {"1", "2", "4", "config.pbtxt", "model.json"}
    _, number = place(tmp_path, template)
    assert number == 5


def test_a_rollback_goes_to_the_version_that_answered_before_and_it_is_kept(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    _, second = place(tmp_path, template)
    versions.activate(model, second, None)
    versions.rollback(model, None)
    _, third = place(tmp_path, template)
    versions.activate(model, third, None)
    versions.prune(model)
    assert versions.versions(model) == [first, third]  # not the second, which nobody wanted
    assert versions.rollback(model, None) == first


def test_a_version_that_was_placed_but_not_activated_is_found_again(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template, build_key="a")
    versions.activate(model, first, None)
    assert versions.waiting(model, "b") is None
    _, second = place(tmp_path, template, build_key="b")  # and then its command was killed
    assert versions.rolled_back(model) == {}
    assert (versions.waiting(model, "b") or {})["version"] == str(second)
    versions.activate(model, second, None)
    versions.rollback(model, None)
    assert versions.waiting(model, "b") is None
    assert versions.rollback(model, None, to=second) == second
    assert versions.rolled_back(model) == {}


def test_triton_is_told_of_what_was_activated_without_it(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    _, second = place(tmp_path, template)
    versions.activate(model, second, None)
    served, allowed_at = {first}, []

    def load(url: str, name: str, numbers: list[int]) -> None:
        allowed_at.append(allowed(model))
        served.clear()
        served.update(n for n in (first, second) if str(n) in allowed(model))

    monkeypatch.setattr(control, "load", load)
    monkeypatch.setattr(control, "loaded", lambda url, name: set(served))
    monkeypatch.setattr(versions, "OVERLAP_SECONDS", 0.0)
    versions.settle(model, "host:1")
    versions.settle(model, "host:1")
    both, alone = (f"version_policy {{ specific {{ versions: [ {numbers} ] }} }}" for numbers in ("1, 2", "2"))
    assert allowed_at == [both, alone]  # the one that it served goes when services have turned to the other


def test_a_damaged_card_is_a_sentence(tmp_path: Path, template: Path) -> None:
    model, first = place(tmp_path, template)
    versions.activate(model, first, None)
    (model / "model.json").write_text("{")
    with pytest.raises(BuildError, match=r"model.json is damaged: .* put the card.json of one of its versions"):
        versions.active(model)


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

    monkeypatch.setattr(control, "loaded", lambda url, name: {first})
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

    monkeypatch.setattr(control, "loaded", lambda url, name: {first})
    monkeypatch.setattr(control, "load", load)
    monkeypatch.setattr(versions, "OVERLAP_SECONDS", 0.0)
    versions.activate(model, second, "host:1")
    assert seen == [
        ("version_policy { specific { versions: [ 1, 2 ] } }", "1"),
        ("version_policy { specific { versions: [ 2 ] } }", "2"),
    ]


def test_a_version_moves_into_another_file_system(tmp_path: Path) -> None:
    """As where the repository is a volume of its own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != tmp_path.stat().st_dev
        staged, target = tmp_path / "staged", Path(other) / "3"
        (staged / "weights").mkdir(parents=True)
        (staged / "weights" / "file").write_text("x")
        (Path(other) / ".3.new").mkdir()  # of a move that was broken off
        versions.move(staged, target)
        assert [path.name for path in Path(other).iterdir()] == ["3"]
        assert (target / "weights" / "file").read_text() == "x"
        assert not staged.exists()
