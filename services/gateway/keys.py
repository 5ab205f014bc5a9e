"""API keys: a file of SHA-256 hashes, read again when it changes.

Keys are long random strings, so a plain hash is enough to keep the file useless to a thief; a slow
password hash would only slow each call.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path

import yaml

from services.runtime.errors import Unauthenticated

log = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS = 1.0
TENANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Hash -> tenant. ValueError where an entry is not as it should be."""
    found: dict[str, str] = {}
    entries = yaml.safe_load(path.read_text()) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("must be a list of {tenant, sha256}")
    for number, entry in enumerate(entries, 1):
        tenant, digest = str(entry.get("tenant", "")), str(entry.get("sha256", ""))
        if not TENANT.fullmatch(tenant):
            raise ValueError(
                f"entry {number}: tenant {tenant!r} must be 1 to 63 lower-case letters, digits, '_', '.' or '-'"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"entry {number}: sha256 must have 64 hexadecimal digits")
        if found.setdefault(digest, tenant) != tenant:
            raise ValueError(f"entry {number}: the key of tenant {found[digest]!r} is given to {tenant!r}, too")
    return found


class Keys:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = path.stat().st_mtime_ns  # first: what is written while it is read is read again
            self._tenants = read_keys(path)
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as failure:
            raise SystemExit(f"GENMESH_API_KEYS_FILE: {path}: {failure}") from None
        self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS

    @property
    def tenants(self) -> list[str]:
        """All tenants with a key, by name."""
        return sorted(set(self._tenants.values()))

    def _refresh(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS
        try:
            stamp = self.path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._tenants, self._stamp = read_keys(self.path), stamp
                log.info("read %d API keys", len(self._tenants))
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as failure:
            log.error("the API keys could not be read again; the ones before stay: %s", failure)

    def tenant(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The tenant of a call's ``authorization: Bearer KEY`` or ``x-api-key: KEY``."""
        self._refresh()
        key = ""
        for name, value in metadata:
            if name == "authorization" and isinstance(value, str):
                scheme, _, rest = value.partition(" ")
                key = rest.strip() if scheme.lower() == "bearer" else key
            elif name == "x-api-key" and isinstance(value, str):
                key = value.strip()
        if not key:
            raise Unauthenticated(
                "no API key: send metadata 'authorization: Bearer KEY' or 'x-api-key: KEY'", reason="API_KEY_MISSING"
            )
        tenant = self._tenants.get(hash_of(key))
        if tenant is None:
            raise Unauthenticated("the API key is not known", reason="API_KEY_INVALID")
        return tenant
