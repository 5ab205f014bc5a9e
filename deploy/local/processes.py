"""The process file: what runs in a one-machine cluster, with which command and environment."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from deploy.local.ports import SERVICES, Ports

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
RULES = ROOT / "deploy" / "helm" / "genmesh" / "rules" / "genmesh.yaml"


@dataclass(frozen=True)
class Program:
    """One process under the process manager."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    priority: int = 100
    stop_seconds: int = 20


@dataclass(frozen=True)
class Layout:
    """Where a cluster keeps what it writes, and what it runs from."""

    state: Path  # everything the cluster writes
    models: Path  # Triton's model repository
    triton_python: Path  # the python of Triton's environment

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def keys_file(self) -> Path:
        return self.run / "api-keys.yaml"


def remembered(path: Path, make: str) -> str:
    """A secret that is made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_text(make)
    return path.read_text().strip()


def service_environment(name: str, layout: Layout, ports: Ports, secret: str) -> dict[str, str]:
    """The GENMESH_ settings of one service."""
    settings = {"host": HOST, "port": ports[name], "metrics_port": ports[f"metrics_{name}"], "identity_secret": secret}
    if name in ("tokenization", "embedding"):
        settings["redis_url"] = f"redis://{HOST}:{ports['redis']}/0"
    if name in ("tokenization", "embedding", "generation", "diffusion"):
        settings["models_dir"] = layout.models
    if name in ("embedding", "generation", "diffusion"):
        settings["triton_url"] = f"{HOST}:{ports['triton']}"
    if name == "vector_search":
        settings["milvus_url"] = f"http://{HOST}:{ports['milvus']}"
    if name == "gateway":
        settings["api_keys_file"] = layout.keys_file
        settings["status_port"] = ports["status"]
        settings |= {f"{other}_url": f"{HOST}:{ports[other]}" for other in SERVICES if other != "gateway"}
    if name == "rag":
        others = ("tokenization", "embedding", "vector_search", "generation")
        settings |= {f"{other}_url": f"{HOST}:{ports[other]}" for other in others}
    return {f"GENMESH_{key.upper()}": str(value) for key, value in settings.items()}


def caller_settings(name: str) -> dict[str, str]:
    """The settings of a service in the caller's environment, as in ``GENMESH_HYDE=true make up``."""
    known = importlib.import_module(f"services.{name}.settings").Settings.model_fields
    return {key: os.environ[key] for field in known if (key := f"GENMESH_{field.upper()}") in os.environ}


def programs(layout: Layout, ports: Ports) -> list[Program]:
    """Everything that runs, dependencies first."""
    data = layout.state / "data"
    secret = remembered(layout.run / "identity-secret", secrets.token_hex(32))
    found = [
        Program("redis", ["redis-server", "--bind", HOST, "--port", str(ports["redis"]), "--save", "", "--appendonly", "no",
                          "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru", "--dir", str(data)], priority=1),
        Program("milvus", [sys.executable, str(ROOT / "deploy" / "images" / "vector_store.py"), "--data-dir",
                           str(data / "milvus"), "--host", HOST, "--port", str(ports["milvus"]),
                           "--metrics-port", str(ports["milvus_metrics"])], priority=2),
        Program("triton", [str(layout.triton_python), str(ROOT / "model_repository" / "serve.py"), "--models", str(layout.models),
                           "--cache", str(layout.state / "triton"), "--host", HOST, "--grpc-port", str(ports["triton"]),
                           "--http-port", str(ports["triton_http"]), "--metrics-port", str(ports["triton_metrics"])],
                priority=3, stop_seconds=40),
    ]  # fmt: skip
    for name in SERVICES:
        environment = {
            **caller_settings(name),
            **service_environment(name, layout, ports, secret),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        found.append(Program(name, [sys.executable, "-m", f"services.{name}"], environment))
    found.append(
        Program("redis_exporter", ["prometheus-redis-exporter", f"--redis.addr=redis://{HOST}:{ports['redis']}",
                                   f"--web.listen-address={HOST}:{ports['redis_exporter']}"], priority=200)
    )  # fmt: skip
    found.append(
        Program("prometheus", ["prometheus", f"--config.file={layout.run / 'prometheus.yaml'}",
                               f"--storage.tsdb.path={data / 'prometheus'}", "--storage.tsdb.retention.time=7d",
                               f"--web.listen-address={HOST}:{ports['prometheus']}", "--log.level=warn"], priority=200)
    )  # fmt: skip
    return found


def prometheus_config(ports: Ports) -> str:
    def job(name: str, port: int) -> dict[str, object]:
        return {"job_name": name, "static_configs": [{"targets": [f"{HOST}:{port}"]}]}

    jobs = [job(f"genmesh-{name.replace('_', '-')}", ports[f"metrics_{name}"]) for name in SERVICES]
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "15s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                *jobs,
                job("triton", ports["triton_metrics"]),
                job("redis", ports["redis_exporter"]),
                job("milvus", ports["milvus_metrics"]),
                job("prometheus", ports["prometheus"]),
            ],
        },
        sort_keys=False,
    )


def supervisor_config(layout: Layout, ports: Ports) -> str:
    """The configuration of supervisord."""

    def path(value: Path) -> str:
        return str(value).replace("%", "%%")

    run = layout.run
    lines = [
        "[supervisord]",
        f"logfile={path(layout.logs / 'supervisord.log')}",
        f"pidfile={path(run / 'supervisord.pid')}",
        f"directory={path(ROOT)}",
        "[unix_http_server]",
        f"file={path(run / 'supervisor.sock')}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisorctl]",
        f"serverurl=unix://{path(run / 'supervisor.sock')}",
    ]
    for program in programs(layout, ports):
        environment = ",".join(f'{key}="{value}"' for key, value in program.environment.items())
        lines += [
            f"[program:{program.name}]",
            f"command={shlex.join(program.command)}".replace("%", "%%"),
            f"environment={environment}".replace("%", "%%"),
            f"priority={program.priority}",
            f"stopwaitsecs={program.stop_seconds}",
            f"stdout_logfile={path(layout.logs / (program.name + '.log'))}",
            "redirect_stderr=true",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=1",
            "startsecs=2",
            "startretries=2",
            "stopasgroup=true" if program.name == "triton" else "stopasgroup=false",
            "killasgroup=true",
        ]
    return "\n".join(lines) + "\n"


def write_files(layout: Layout, ports: Ports) -> bool:
    """Write the configuration; whether the process file changed."""
    for folder in (layout.run, layout.logs, layout.state / "data" / "milvus", layout.state / "data" / "prometheus"):
        folder.mkdir(parents=True, exist_ok=True)
    (layout.run / "prometheus.yaml").write_text(prometheus_config(ports))
    (layout.run / "ports.json").write_text(json.dumps(ports.by_name))
    path, text = layout.run / "supervisord.conf", supervisor_config(layout, ports)
    changed = not path.exists() or path.read_text() != text
    path.touch(0o600)
    path.write_text(text)
    return changed
