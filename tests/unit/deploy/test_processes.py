"""The process file: supervisord reads every program from it, and each service takes its environment."""

import importlib
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from supervisor.options import ServerOptions

from deploy.local.ports import SERVICES, Ports
from deploy.local.processes import (
    Layout,
    programs,
    prometheus_config,
    remembered,
    service_environment,
    supervisor_config,
    write_files,
)
from services.runtime.settings import load

PORTS = Ports.fixed(100)
SECRET = "0123456789abcdef"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state", tmp_path / "models", Path("/venv/triton/bin/python"))


def read_by_supervisord(layout: Layout) -> dict[str, Any]:
    """Program configurations by name, as supervisord itself reads them."""
    write_files(layout, PORTS)
    options = ServerOptions()
    options.realize(["-c", str(layout.run / "supervisord.conf")], doc="")
    options.process_config(do_usage=False)
    return {p.name: p for group in options.process_group_configs for p in group.process_configs}


def load_exactly(name: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The service's settings, read from this environment and nothing else."""
    monkeypatch.setattr(os, "environ", dict(environment))
    return load(importlib.import_module(f"services.{name}.settings").Settings)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_takes_its_environment(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_exactly(name, service_environment(name, layout, PORTS, SECRET), monkeypatch)
    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", PORTS[name], PORTS[f"metrics_{name}"])
    assert settings.identity_secret.get_secret_value() == SECRET


@pytest.mark.parametrize("name", SERVICES)
def test_addresses_of_other_parts_are_theirs(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_exactly(name, service_environment(name, layout, PORTS, SECRET), monkeypatch)
    found = {key: value for key, value in settings.model_dump().items() if key.endswith("_url")}
    schemes = {"redis_url": "redis://{}/0", "milvus_url": "http://{}"}
    for key, value in found.items():
        address = f"127.0.0.1:{PORTS[key.removesuffix('_url')]}"
        value = value.get_secret_value() if isinstance(value, SecretStr) else value
        assert value == schemes.get(key, "{}").format(address)
    assert found or name == "gateway"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_could_do_with_less(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = service_environment(name, layout, PORTS, SECRET)
    optional = {"GENMESH_HOST", "GENMESH_REDIS_URL", "GENMESH_STATUS_PORT"}
    for left_out in environment.keys() - optional:
        with pytest.raises(SystemExit, match=left_out):
            load_exactly(name, {k: v for k, v in environment.items() if k != left_out}, monkeypatch)


def test_supervisord_reads_each_program_with_its_command_and_environment(layout: Layout) -> None:
    found = read_by_supervisord(layout)
    expected = {program.name: program for program in programs(layout, PORTS)}
    assert set(found) == set(expected) == {"redis", "milvus", "triton", *SERVICES, "redis_exporter", "prometheus"}
    for name, program in expected.items():
        assert shlex.split(found[name].command) == program.command
        assert found[name].priority == program.priority
        assert found[name].stopwaitsecs == program.stop_seconds
        assert found[name].stdout_logfile == str(layout.logs / f"{name}.log")
        assert program.environment.items() <= (found[name].environment or {}).items()


def test_who_starts_a_cluster_may_set_what_services_read(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PARENTS": "true", "LOG_LEVEL": "DEBUG", "PORT": "1", "API_KEY": "gm_x", "TARGET": "y"}.items():
        monkeypatch.setenv(f"GENMESH_{name}", value)
    found = {p.name: p.environment for p in programs(layout, PORTS)}
    assert found["rag"]["GENMESH_PARENTS"] == "true"
    assert [name for name in SERVICES if "GENMESH_PARENTS" in found[name]] == ["rag"]
    assert {found[name]["GENMESH_LOG_LEVEL"] for name in SERVICES} == {"DEBUG"}
    assert found["rag"]["GENMESH_PORT"] == str(PORTS["rag"])
    assert not any(name in found[one] for one in found for name in ("GENMESH_API_KEY", "GENMESH_TARGET"))


def test_every_service_runs_its_module_with_one_secret(layout: Layout) -> None:
    found = {p.name: p for p in programs(layout, PORTS)}
    assert [found[name].command[1:] for name in SERVICES] == [["-m", f"services.{name}"] for name in SERVICES]
    secrets = {found[name].environment["GENMESH_IDENTITY_SECRET"] for name in SERVICES}
    assert secrets == {(layout.run / "identity-secret").read_text()}
    assert len(secrets.pop()) == 64


def test_what_is_needed_starts_first(layout: Layout) -> None:
    order = {p.name: p.priority for p in programs(layout, PORTS)}
    assert max(order[n] for n in ("redis", "milvus", "triton")) < min(order[n] for n in SERVICES)


def test_percent_signs_in_commands_survive(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state", tmp_path / "50%s models", Path("/venv/triton/bin/python"))
    found = read_by_supervisord(layout)
    assert str(layout.models) in shlex.split(found["triton"].command)
    assert found["embedding"].environment["GENMESH_MODELS_DIR"] == str(layout.models)


def test_secrets_are_made_once_and_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    assert remembered(path, "first") == "first"
    assert remembered(path, "second") == "first"
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_the_process_file_holds_the_secret_and_is_for_the_owner_only(layout: Layout) -> None:
    write_files(layout, PORTS)
    path = layout.run / "supervisord.conf"
    assert (layout.run / "identity-secret").read_text() in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_write_files_says_whether_something_changed(layout: Layout) -> None:
    assert write_files(layout, PORTS) is True
    assert write_files(layout, PORTS) is False
    assert write_files(layout, Ports.fixed(200)) is True
    assert supervisor_config(layout, Ports.fixed(200)) == (layout.run / "supervisord.conf").read_text()


def test_prometheus_scrapes_every_part() -> None:
    config = yaml.safe_load(prometheus_config(PORTS))
    found = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    expected = {f"genmesh-{n.replace('_', '-')}": [f"127.0.0.1:{PORTS[f'metrics_{n}']}"] for n in SERVICES}
    others = {
        "triton": "triton_metrics",
        "redis": "redis_exporter",
        "milvus": "milvus_metrics",
        "prometheus": "prometheus",
    }
    assert found == expected | {name: [f"127.0.0.1:{PORTS[port]}"] for name, port in others.items()}
