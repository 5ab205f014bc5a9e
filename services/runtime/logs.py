"""Logs as one JSON object a line, on standard error; those about a call have its id and tenant."""

from __future__ import annotations

import json
import logging
import sys
import time

from services.runtime import identity


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        entry = {"time": stamp, "level": record.levelname, "service": self.service, "message": record.getMessage()}
        if (call := identity.within()) is not None:
            entry |= {"request_id": call.request_id, "tenant": call.tenant}
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(service: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
