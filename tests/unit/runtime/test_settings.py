"""Settings from the environment: a fault ends the process with a sentence that names the variable."""

import os

import pytest

from services.runtime.settings import CacheSettings, ServiceSettings, load

GOOD = {"GENMESH_PORT": "8101", "GENMESH_METRICS_PORT": "9101", "GENMESH_IDENTITY_SECRET": "0123456789abcdef"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with good settings and no others."""
    for name in [n for n in os.environ if n.upper().startswith("GENMESH_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def sentence(kind: type[ServiceSettings] = ServiceSettings) -> str:
    with pytest.raises(SystemExit) as caught:
        load(kind)
    assert isinstance(caught.value.code, str)
    return caught.value.code


def test_good_settings_are_read_and_the_rest_has_defaults(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GENMESH_MAX_MESSAGE_BYTES", "2048")
    settings = load(ServiceSettings)
    assert (settings.port, settings.metrics_port, settings.max_message_bytes) == (8101, 9101, 2048)
    assert settings.identity_secret.get_secret_value() == GOOD["GENMESH_IDENTITY_SECRET"]
    assert settings.host == "127.0.0.1"


def test_an_unknown_variable_is_named_with_those_that_are_known(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GENMESH_PROT", "1")
    assert sentence().startswith("Unknown setting GENMESH_PROT;")
    assert "GENMESH_PORT" in sentence()


def test_a_variable_of_another_service_is_unknown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GENMESH_REDIS_URL", "redis://h")
    assert "GENMESH_REDIS_URL" in sentence()
    found = load(CacheSettings)
    assert found.redis_url is not None
    assert found.redis_url.get_secret_value() == "redis://h"
    assert "redis://h" not in repr(found)  # it may have a password


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GENMESH_PORT", "many"),
        ("GENMESH_PORT", "0"),
        ("GENMESH_PORT", "65536"),
        ("GENMESH_METRICS_PORT", ""),
        ("GENMESH_IDENTITY_SECRET", "tooshort"),
        ("GENMESH_MAX_MESSAGE_BYTES", "1.5"),
        ("GENMESH_DEFAULT_DEADLINE_SECONDS", "0"),
        ("GENMESH_DEFAULT_DEADLINE_SECONDS", "nan"),
        ("GENMESH_DRAIN_SECONDS", "-1"),
        ("GENMESH_LOG_LEVEL", "LOUD"),
        ("GENMESH_CACHE_TTL_SECONDS", "0"),
    ],
)
def test_a_bad_value_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    text = sentence(CacheSettings)
    assert text.startswith(f"Bad settings. {name}: ")


def test_a_missing_variable_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("GENMESH_METRICS_PORT")
    assert "GENMESH_METRICS_PORT: Field required" in sentence()


def test_all_bad_values_are_named_at_once_and_no_secret_is_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GENMESH_PORT", "x")
    environment.setenv("GENMESH_IDENTITY_SECRET", "hunter2")
    text = sentence()
    assert "GENMESH_PORT: " in text
    assert "GENMESH_IDENTITY_SECRET: " in text
    assert "hunter2" not in text


def test_settings_are_frozen_and_hide_their_secret(environment: pytest.MonkeyPatch) -> None:
    settings = load(ServiceSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    assert GOOD["GENMESH_IDENTITY_SECRET"] not in repr(settings)
