"""What a call leads to has what is left of its deadline."""

from __future__ import annotations

import contextvars
import math

import pytest

from services.runtime import deadline


def test_what_is_left_is_no_more_than_asked_for_and_never_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def within() -> None:
        nonlocal now
        deadline.enter(5)
        assert (deadline.left(3), deadline.left(math.inf)) == (3, 5)
        now = 104
        assert deadline.left(3) == 1
        now = 200
        assert deadline.left(3) == deadline.LEAST_SECONDS

    contextvars.Context().run(within)
    assert contextvars.Context().run(deadline.left, 7) == 7
