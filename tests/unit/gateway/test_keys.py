"""API keys: where they may stand in a call, and the file that is read again when it changes."""

import os
from pathlib import Path

import pytest
import yaml

from services.gateway import keys as module
from services.gateway.keys import Keys, hash_of, read_keys
from services.runtime.errors import Unauthenticated

ACME, OTHER = "gm_acme_key", "gm_other_key"


def write(path: Path, text: str) -> None:
    """Write the file with a time stamp of its own, however fast the test is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def entries(**tenants: str) -> str:
    return yaml.safe_dump([{"tenant": tenant, "sha256": hash_of(key)} for tenant, key in tenants.items()])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "keys.yaml"
    write(found, entries(acme=ACME, other=OTHER))
    return found


@pytest.fixture
def keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.0)
    return Keys(path)


def refusal(keys: Keys, *metadata: tuple[str, str | bytes]) -> str:
    with pytest.raises(Unauthenticated) as caught:
        keys.tenant(metadata)
    return caught.value.reason


@pytest.mark.parametrize(
    "entry",
    [
        ("authorization", f"Bearer {ACME}"),
        ("authorization", f"bearer {ACME}"),
        ("authorization", f"BEARER   {ACME} "),
        ("x-api-key", ACME),
        ("x-api-key", f" {ACME} "),
    ],
)
def test_a_key_is_found_where_it_may_stand(keys: Keys, entry: tuple[str, str]) -> None:
    assert keys.tenant([("user-agent", "x"), entry, ("traceparent", "00")]) == "acme"


def test_each_key_has_its_tenant(keys: Keys) -> None:
    assert keys.tenant([("x-api-key", OTHER)]) == "other"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("user-agent", ACME)],
        [("authorization", ACME)],
        [("authorization", f"Basic {ACME}")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer  ")],
        [("x-api-key", "")],
        [("x-api-key", ACME.encode())],
        [("genmesh-identity", ACME)],
    ],
)
def test_a_call_without_key_is_refused(keys: Keys, metadata: list[tuple[str, str | bytes]]) -> None:
    assert refusal(keys, *metadata) == "API_KEY_MISSING"


@pytest.mark.parametrize("key", ["wrong", ACME + "x", ACME[:-1], ACME.upper(), hash_of(ACME), "é", "acme"])
def test_a_wrong_key_is_refused(keys: Keys, key: str) -> None:
    assert refusal(keys, ("authorization", f"Bearer {key}")) == "API_KEY_INVALID"


def test_refusals_do_not_repeat_the_key(keys: Keys) -> None:
    with pytest.raises(Unauthenticated) as caught:
        keys.tenant([("x-api-key", "gm_mistyped")])
    assert "gm_mistyped" not in str(caught.value)


def test_a_new_key_is_let_in_and_a_revoked_one_refused_once_the_file_changes(keys: Keys, path: Path) -> None:
    assert refusal(keys, ("x-api-key", "gm_new")) == "API_KEY_INVALID"
    write(path, entries(fresh="gm_new", other=OTHER))
    assert keys.tenant([("x-api-key", "gm_new")]) == "fresh"
    assert keys.tenant([("x-api-key", OTHER)]) == "other"
    assert refusal(keys, ("x-api-key", ACME)) == "API_KEY_INVALID"


def test_the_file_is_looked_at_once_in_a_while_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    keys = Keys(path)
    write(path, entries(other=OTHER))
    assert keys.tenant([("x-api-key", ACME)]) == "acme"
    now[0] += module.LOOK_AGAIN_SECONDS + 0.1
    assert refusal(keys, ("x-api-key", ACME)) == "API_KEY_INVALID"


BAD = [
    "- tenant: Acme\n  sha256: " + "0" * 64,
    "- tenant: ''\n  sha256: '" + "0" * 64 + "'",
    "- tenant: a/b\n  sha256: '" + "0" * 64 + "'",
    "- tenant: acme\n  sha256: short",
    "- tenant: acme\n  sha256: '" + "A" * 64 + "'",
    "- tenant: acme",
    "- just text",
    "tenant: acme",
    "[unclosed",
    "\x00",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_keeps_the_keys_before(keys: Keys, path: Path, text: str) -> None:
    write(path, text)
    assert keys.tenant([("x-api-key", ACME)]) == "acme"
    write(path, entries(other=OTHER))
    assert refusal(keys, ("x-api-key", ACME)) == "API_KEY_INVALID"


def test_a_file_that_is_gone_or_no_text_keeps_the_keys_before(keys: Keys, path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    assert keys.tenant([("x-api-key", ACME)]) == "acme"
    path.unlink()
    assert keys.tenant([("x-api-key", ACME)]) == "acme"


@pytest.mark.parametrize("text", [*BAD, None])
def test_a_bad_or_missing_file_at_boot_ends_the_process(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "keys.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        Keys(path)
    assert str(caught.value.code).startswith(f"GENMESH_API_KEYS_FILE: {path}: ")


def test_a_bad_entry_is_named_by_its_number(path: Path) -> None:
    write(path, entries(acme=ACME) + "- tenant: acme\n  sha256: short\n")
    with pytest.raises(ValueError, match="entry 2: sha256"):
        read_keys(path)


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("")
    assert refusal(Keys(path), ("x-api-key", ACME)) == "API_KEY_INVALID"


def test_a_key_has_one_tenant(path: Path) -> None:
    write(path, entries(acme=ACME, other=ACME))
    with pytest.raises(ValueError, match="the key of tenant 'acme' is given to 'other', too"):
        read_keys(path)
    path.write_text(entries(acme=ACME) * 2)
    assert list(read_keys(path).values()) == ["acme"]
