"""Where the cluster is: what was given, else GENMESH_TARGET and GENMESH_API_KEY, else the one that `make up` runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from genmesh import Client
from genmesh.errors import GenmeshError

from loadtest.scenarios import FOLDER

RUN = FOLDER.parent / ".state" / "run"


class NoCluster(Exception):
    """There is no cluster to load; the text says why."""


def found(target: str | None = None, key: str | None = None, run: Path = RUN) -> tuple[str, str]:
    """host:port of the gateway, and an API key."""
    target = target or os.environ.get("GENMESH_TARGET")
    key = key or os.environ.get("GENMESH_API_KEY")
    if target and key:
        return target, key
    try:
        own_target = f"127.0.0.1:{json.loads((run / 'ports.json').read_text())['gateway']}"
        own_key = (run / "development-key").read_text().strip()
    except (OSError, ValueError, KeyError):
        raise NoCluster(
            "There is no cluster to load: run `make up`, or give a target and an API key"
            " (--target and --api-key, or GENMESH_TARGET and GENMESH_API_KEY)."
        ) from None
    return target or own_target, key or own_key


def connect(target: str, key: str) -> Client:
    """A client whose first call succeeded."""
    client = Client(target, api_key=key)
    try:
        client.models.ListModels({}, timeout=5)
    except GenmeshError as failure:
        client.close()
        hint = "; run `make up`" if failure.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else ""
        raise NoCluster(f"No cluster answers at {target}: {failure}{hint}.") from None
    return client
