"""docs/scale.md says what its script works out of the figures that are kept."""

from __future__ import annotations

import json

from loadtest.scale import BEGIN, END, FIGURES, LIMITS, ROOT, USERS, cores, document, loads, pods


def figures(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((FIGURES / f"{name}.json").read_text())
    return found


def test_the_document_is_of_the_figures_that_are_kept() -> None:
    shown = (ROOT / "docs" / "scale.md").read_text().partition(f"{BEGIN}\n")[2].partition(END)[0]
    assert shown == document(figures("cost"), figures("simulated"))


def test_what_is_used_grows_with_the_users_and_every_limit_is_held_against_it() -> None:
    cost = figures("cost")
    used = [loads(cost, figures("simulated"), users) for users in USERS]
    assert set(used[0]) == set(LIMITS)
    assert all(a <= b < c for a, b, c in (tuple(one[key] for one in used) for key in LIMITS))
    assert cores(cost, 2_000)["triton"] == 2 * cores(cost, 1_000)["triton"]
    assert min(pods(cores(cost, 1)).values()) == 2
