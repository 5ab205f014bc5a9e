"""How a contender's process is told what to run: a JSON object a line in, one a line out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(handlers: dict[str, Callable[..., Any]]) -> None:
    """Answer ``{"call": NAME, ...arguments}`` with ``{"result": ...}`` until standard input ends.

    What libraries print goes to standard error, so that it cannot mix with answers.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({"result": "ready"}), file=answers)
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"result": handlers[arguments.pop("call")](**arguments)}
        except Exception as failure:  # the caller raises it
            answer = {"error": f"{type(failure).__name__}: {failure}"}
        print(json.dumps(answer), file=answers)
