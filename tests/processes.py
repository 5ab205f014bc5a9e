"""The processes of this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def command_lines() -> dict[int, list[str]]:
    """The words of each process's command, by process id."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found[int(file.parent.name)] = file.read_bytes().decode(errors="replace").split("\0")
    return found
