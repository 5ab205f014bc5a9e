"""Questions in SQuAD's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def paragraphs(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each paragraph, with its article's title, if it has one; before it the article's number, from 0, and a name of its own."""
    for number, article in enumerate(json.loads(path.read_text("utf-8"))["data"]):
        for place, paragraph in enumerate(article["paragraphs"]):
            yield number, f"{number}-{place}", {"title": article.get("title", ""), **paragraph}
