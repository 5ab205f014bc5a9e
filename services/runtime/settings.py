"""One frozen settings class a service, read from ``GENMESH_`` variables and validated once at boot."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GENMESH_"


class ServiceSettings(BaseSettings):
    """What every service reads."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(ge=1, le=65535, description="Port of the gRPC server.")
    metrics_port: int = Field(ge=1, le=65535, description="Port of the Prometheus endpoint /metrics.")
    identity_secret: SecretStr = Field(min_length=16, description="Secret that signs the tenant between services.")
    max_message_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request message.")
    max_concurrent_calls: int = Field(256, ge=1, description="Calls at once; more are refused.")
    default_deadline_seconds: float = Field(120, gt=0, description="Deadline of a call that brings none.")
    max_connection_age_seconds: float = Field(
        30, ge=1, description="After this a client is asked to connect anew; it finds new replicas then."
    )
    lame_duck_seconds: float = Field(
        0, ge=0, description="After SIGTERM, how long new calls are still served while NOT_SERVING is told."
    )
    drain_seconds: float = Field(10, ge=0, description="How long calls in flight may go on after that.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")


class CacheSettings(ServiceSettings):
    """For services with a cache."""

    redis_url: SecretStr | None = Field(None, description="redis://...; a bounded cache in the process where unset.")
    cache_ttl_seconds: int = Field(24 * 3600, ge=1)
    cache_local_entries: int = Field(10_000, ge=1, description="Bound of the in-process cache.")


class ModelSettings(ServiceSettings):
    """For services that read model cards and tokenizers."""

    models_dir: Path = Field(description="The folder that `make models` built.")


class TritonSettings(ModelSettings):
    """For services that call Triton."""

    triton_url: str = Field(description="host:port of Triton's gRPC endpoint.")


S = TypeVar("S", bound=ServiceSettings)


def faults(kind: type[ServiceSettings]) -> list[tuple[str, str]]:
    """The variables of the environment that cannot be taken, or lack, each with a sentence that names it."""
    try:
        kind()  # type: ignore[call-arg]  # the fields come from the environment
    except ValidationError as failure:
        found = [(f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}", e["msg"]) for e in failure.errors()]
        return [(name, f"{name}: {text}") for name, text in found]
    return []


def load(kind: type[S]) -> S:
    """Read the settings, or end the process with a sentence that names the variable at fault."""
    known = {PREFIX + name.upper() for name in kind.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        sys.exit(f"Unknown setting {', '.join(unknown)}; this service knows {', '.join(sorted(known))}.")
    if problems := faults(kind):
        sys.exit("Bad settings. " + "; ".join(text for _, text in problems) + ".")
    return kind()  # type: ignore[call-arg]  # the fields come from the environment
