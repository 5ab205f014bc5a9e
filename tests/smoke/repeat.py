"""Whether a run is repeated: only if a timeout expired while the machine had no processor time to give."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from deploy.cluster.cluster import NotReady

PRESSURE = Path("/proc/pressure/cpu")
# Percent of the last minute in which some process waited for a core.
STARVED = 60.0
# Seconds: how long before a failure a sample still tells of it.
RECENT = 60.0
EVERY = 5.0
# What helm, kubectl and Kubernetes say when one of their timeouts expires.
EXPIRED = re.compile(r"timed out|deadline ?exceeded|exceeded its progress deadline", re.IGNORECASE)

T = TypeVar("T")


def avg60(file: Path = PRESSURE) -> float | None:
    """The share of the last minute, in percent, in which some process waited for a core; None if the kernel has none."""
    try:
        some = next(line for line in file.read_text().splitlines() if line.startswith("some "))
    except (OSError, StopIteration):
        return None
    found = re.search(r"\bavg60=([\d.]+)", some)
    return float(found[1]) if found else None


class Pressure:
    """Samples of the pressure on the processor while the ``with`` lasts."""

    def __init__(self, read: Callable[[], float | None] = avg60) -> None:
        self._read = read
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[tuple[float, float]] = []  # when (monotonic), percent

    def __enter__(self) -> Pressure:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.take()
            if self._over.wait(EVERY):
                return

    def take(self) -> None:
        if (found := self._read()) is not None:
            self.samples.append((time.monotonic(), found))

    def highest(self, since: float = 0.0) -> float | None:
        """The highest sample since then; None if there is none."""
        return max((percent for at, percent in list(self.samples) if at >= since), default=None)

    def now(self) -> float | None:
        """The highest sample of the last minute, the present one included."""
        self.take()
        return self.highest(time.monotonic() - RECENT)


def timed_out(failure: BaseException) -> bool:
    """Whether a wait expired, rather than that something was found to be wrong."""
    if isinstance(failure, AssertionError):
        return False
    if isinstance(failure, NotReady | TimeoutError | subprocess.TimeoutExpired):
        return True
    return isinstance(failure, RuntimeError) and bool(EXPIRED.search(str(failure)))


def repeated(run: Callable[[], T], pressure: Callable[[], float | None], say: Callable[[str], None]) -> T:
    """The run's result. It is run once more if a timeout expired while the processor was starved, and never otherwise.

    ``run`` takes away all that it started, also when it fails. Each run's result is said.
    """
    for name in ("first", "second"):
        begun = time.monotonic()
        try:
            result = run()
        except Exception as failure:
            percent = pressure()
            share = "unknown" if percent is None else f"{percent:.0f} %"
            say(
                f"{name} run: failed after {time.monotonic() - begun:.0f} s, CPU pressure {share}:"
                f" {type(failure).__name__}: {failure}"
            )
            if name == "second" or not (timed_out(failure) and percent is not None and percent > STARVED):
                raise
        else:
            say(f"{name} run: ended after {time.monotonic() - begun:.0f} s")
            return result
    raise AssertionError
