"""Checks of request fields. All faults of a message are collected, then raised as one error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format, struct_pb2

from services.runtime.errors import InvalidArgument, Violation

MOST_METADATA_BYTES, MOST_METADATA_LEVELS = 65_536, 16


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


def metadata_fault(metadata: struct_pb2.Struct, most: int = MOST_METADATA_BYTES) -> str:
    """Why metadata is refused, as the end of a sentence; empty if it is valid."""
    try:
        found = json_format.MessageToDict(metadata)
    except (json_format.Error, ValueError):
        return "has a number that is NaN or infinite"
    except RecursionError:
        return f"is nested more than {MOST_METADATA_LEVELS} levels deep"
    levels, layer = 0, list[Any]([found])
    while layer:
        levels += 1
        if levels > MOST_METADATA_LEVELS:
            return f"is nested more than {MOST_METADATA_LEVELS} levels deep"
        parts = (one.values() if isinstance(one, dict) else one for one in layer)
        layer = [value for part in parts for value in part if isinstance(value, dict | list)]
    if (size := len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode())) > most:
        return f"has {size} bytes as JSON; at most {most} are allowed"
    return ""
