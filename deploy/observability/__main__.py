"""python -m deploy.observability: write docs/metrics.md, docs/alerts.md, the dashboards and the rules."""

from __future__ import annotations

from pathlib import Path

from deploy.observability.files import files

for path, text in files().items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
