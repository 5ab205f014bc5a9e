"""Rows of Locust's own tables, so that its console, CSV, web page and reports show them.

| type          | what its "response time" columns hold                                             |
| ------------- | --------------------------------------------------------------------------------- |
| gRPC          | ms from when the call was due to its end; also counts failures and Aggregated     |
| gRPC sent     | ms from when it was sent to its end                                               |
| TTFT          | ms from when it was due to the first message with content                         |
| TTFT sent     | ms from when it was sent to that message                                          |
| TTFT server   | ms that the server itself measured                                                |
| ITL           | ms between two messages with content; one entry a gap                             |
| ITL call      | ms, mean gap of a call                                                            |
| tokens/s      | tokens that all calls together received in a second; one entry a second           |
| tokens/s call | a call's output tokens by its time from when it was sent                          |
| goodput %     | 100 for a call that kept its bounds in slo.yaml, else 0: the average is the share |

Only rows of type gRPC go into Aggregated; the others would count a call several times.
"""

from __future__ import annotations

from typing import Any

from locust import stats
from locust.env import Environment

from loadtest.measures import DROPPED, Board, Call

stats.STATS_TYPE_WIDTH = 14


def log(environment: Environment, call: Call, good: bool) -> None:
    """Enter a call into every row that it belongs to."""
    log_request(environment, call.operation, None if call.error == DROPPED else call.latency, call)
    _enter(environment, "goodput %", call.operation, 100.0 * good)
    if call.error:
        return
    for kind, seconds in (
        ("gRPC sent", call.service_time), ("TTFT", call.ttft), ("TTFT sent", call.ttft_sent),
        ("TTFT server", call.server_ttft), ("ITL call", call.mean_gap),
        *(("ITL", gap) for gap in call.gaps),
    ):  # fmt: skip
        if seconds is not None:
            _enter(environment, kind, call.operation, seconds * 1000)
    if call.tokens_per_second is not None:
        _enter(environment, "tokens/s call", call.operation, call.tokens_per_second)


def log_request(environment: Environment, operation: str, latency: float | None, call: Call) -> None:
    """Fire Locust's event of a request; ``latency`` in seconds, None for a call that was never sent."""
    request: Any = environment.events.request
    request.fire(
        request_type="gRPC", name=operation, response_time=None if latency is None else latency * 1000,
        response_length=call.received_bytes, exception=call.error or None, context={},
    )  # fmt: skip


def _enter(environment: Environment, kind: str, name: str, value: float) -> None:
    environment.stats.entries[(name, kind)].log(value, 0)  # type: ignore[arg-type]  # a float will do


class TokenRows:
    """Enters the rows tokens/s, second by second, as the board fills; on a master for all workers."""

    def __init__(self) -> None:
        self._next = 0

    def enter(self, environment: Environment, board: Board, until_second: int) -> None:
        """Enter all seconds before ``until_second`` that are not entered yet."""
        for operation, series in board.series.items():
            if series["tokens"]:
                for second in range(self._next, until_second):
                    _enter(environment, "tokens/s", operation, float(series["tokens"][second]))
        self._next = max(self._next, until_second)
