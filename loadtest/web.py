"""A tab "Genmesh" on Locust's web page, with the rows of the final report while the run goes on."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Response, make_response, request
from locust.web import WebUI

from loadtest import report
from loadtest.conductor import Conductor

KEY = "genmesh"


def extend(page: WebUI, conductor: Conductor) -> None:
    """Add the tab, and /genmesh/summary.csv among the downloads."""
    app: Any = page.app
    page.template_args |= {
        "extended_tabs": [{"title": "Genmesh", "key": KEY}],
        "extended_tables": [
            {"key": KEY, "structure": [{"key": key, "title": title} for key, title in report.COLUMNS.items()]}
        ],
        "extended_csv_files": [{"href": "/genmesh/summary.csv", "title": "Download Genmesh CSV"}],
    }

    def current() -> list[report.Row]:
        if conductor.found or not conductor.session:
            return conductor.found
        return report.rows(conductor.board, time.monotonic() - conductor.session.start)

    @app.after_request  # type: ignore[untyped-decorator]
    def with_rows(response: Response) -> Response:
        if request.path == "/stats/requests" and response.is_json:
            found: dict[str, Any] = response.get_json()
            response.set_data(json.dumps({**found, "extended_stats": [{"key": KEY, "data": current()}]}))
        return response

    @app.route("/genmesh/summary.csv")  # type: ignore[untyped-decorator]
    @page.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def summary() -> Response:
        response = make_response(report.as_csv(current()))
        response.headers["Content-Type"] = "text/csv"
        return response
