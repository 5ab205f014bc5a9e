"""A line of a log as JSON, with the call that it is about."""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Callable

from services.runtime.logs import _Json


def line(**more: object) -> dict[str, object]:
    record = logging.LogRecord("name", logging.WARNING, "file", 1, "no %s", ("luck",), None)
    vars(record).update(more)
    found: dict[str, object] = json.loads(_Json("rag").format(record))
    return found


def test_a_line_within_a_call_has_its_id_and_tenant(as_tenant: Callable[[str], None]) -> None:
    assert "tenant" not in contextvars.Context().run(line)
    as_tenant("acme")
    found = line(fields={"reason": "X"})
    assert (found["request_id"], found["tenant"], found["reason"]) == ("request-1", "acme", "X")
    assert (found["level"], found["service"], found["message"]) == ("WARNING", "rag", "no luck")
