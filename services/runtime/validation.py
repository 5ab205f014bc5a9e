"""Checks of request fields. All faults of a message are collected, then raised as one error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from google.protobuf import json_format
from google.protobuf.struct_pb2 import ListValue, Struct

from services.runtime.errors import InvalidArgument, Violation

# Of metadata: structs and lists within one another, and bytes as JSON.
MOST_DEPTH, METADATA_BYTES = 16, 65_536


def metadata_fault(metadata: Struct, most: int = METADATA_BYTES) -> str:
    """What is wrong with metadata, as the end of a sentence about it; empty where nothing is."""
    if _depth(metadata) > MOST_DEPTH:
        return f"is nested more than {MOST_DEPTH} levels deep"
    try:
        size = len(json.dumps(json_format.MessageToDict(metadata), ensure_ascii=False).encode())
    except (json_format.Error, ValueError):
        return "holds NaN or infinity, which JSON has not"
    return f"has {size} bytes as JSON; at most {most} are allowed" if size > most else ""


def _depth(metadata: Struct) -> int:
    found, level = 0, list[Struct | ListValue]([metadata])
    while level:
        found += 1
        values = [v for one in level for v in (one.fields.values() if isinstance(one, Struct) else one.values)]
        level = [getattr(v, kind) for v in values if (kind := v.WhichOneof("kind")) in ("struct_value", "list_value")]
    return found


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
