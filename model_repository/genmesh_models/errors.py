"""How a command ends: with a sentence for whoever ran it, and with all that it started."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

FULL_BYTES = 2**20  # a disk with less left is full


class BuildError(Exception):
    """A model cannot be built, verified or served; the text says why."""


class NotLoaded(BuildError):
    """Triton was asked to load a version, and did not."""


def sentence(failure: Exception, written: Iterable[Path] = ()) -> str:
    """What failed, for whoever ran the command; ``written``: folders whose disk may be full, whatever the exception says."""
    places = [next(p for p in (place, *place.parents) if p.is_dir()) for place in written]
    full = [place for place in places if shutil.disk_usage(place).free < FULL_BYTES]
    # shutil tells of a tree that it copies in words only.
    if full or getattr(failure, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(failure):
        return f"the disk of {full[0]} is full" if full else f"a disk is full: {failure}"
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.filename}: {failure.strerror}" if failure.filename else failure.strerror
    return f"{type(failure).__name__}: {failure}"


def ends_with_parent() -> None:
    """Have this process killed when the one that started it ends, however it does (Linux): nobody else waits for it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
