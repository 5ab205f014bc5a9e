"""Checks of request fields. All faults of a message are collected, then raised as one error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.runtime.errors import InvalidArgument, Violation


def shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


class Fields:
    """Collects violations; ``done`` raises INVALID_ARGUMENT/INVALID_FIELD where there are any."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def fault(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))

    def text(self, field: str, value: str, *, most: int, least: int = 1, blank: bool = False) -> None:
        """A string of ``least`` to ``most`` characters; all white space only where ``blank``."""
        if len(value) < least:
            self.fault(field, "must not be empty")
        elif len(value) > most:
            self.fault(field, f"has {len(value)} characters; at most {most} are allowed")
        elif value and not blank and not value.strip():
            self.fault(field, "holds white space only")

    def size(self, field: str, value: Sequence[object], *, most: int, least: int = 1) -> None:
        """A repeated field of ``least`` to ``most`` elements."""
        if not least <= len(value) <= most:
            self.fault(field, f"has {len(value)} elements; {least} to {most} are allowed")

    def number(self, field: str, value: float, least: float, most: float) -> None:
        """A number from ``least`` to ``most``, both allowed; NaN is not."""
        if not math.isfinite(value) or not least <= value <= most:
            self.fault(field, f"is {shown(value)}; {shown(least)} to {shown(most)} are allowed")

    def defaulted(self, field: str, value: int, default: int, most: int) -> int:
        """``value`` from 1 to ``most``, or ``default`` where it is 0 (unset)."""
        if value:
            self.number(field, value, 1, most)
        return value or default

    def done(self) -> None:
        if self.violations:
            message = "; ".join(f"{v.field}: {v.description}" for v in self.violations[:5])
            if len(self.violations) > 5:
                message += f"; and {len(self.violations) - 5} more"
            # A status has room for the first faults only.
            raise InvalidArgument(message, violations=self.violations[:20])
