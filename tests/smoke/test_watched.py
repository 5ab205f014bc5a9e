"""What is concluded from what kubectl printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.smoke import watched


def change(name: str, revision: int, kind: str = "MODIFIED", ready: bool = True, ending: bool = False) -> str:
    metadata: dict[str, Any] = {
        "uid": f"uid-{name}", "name": name, "resourceVersion": str(revision),
        "labels": {"app.kubernetes.io/component": "gateway"},
    }  # fmt: skip
    if ending:
        metadata["deletionTimestamp"] = "2026-11-29T08:00:00Z"
    status = {"podIP": "10.244.1.2", "conditions": [{"type": "Ready", "status": str(ready)}]}
    return json.dumps({"type": kind, "object": {"metadata": metadata, "status": status}}, indent=4)


ROLLED = [
    change("a", 1, "ADDED"),
    change("b", 2, "ADDED"),
    change("c", 3, "ADDED", ready=False),
    change("c", 4),
    change("a", 5, ending=True),
    change("a", 6, "DELETED", ending=True),
    change("d", 7, "ADDED"),
    change("b", 8, ending=True),
    change("b", 9, "DELETED", ready=False, ending=True),
]
OLD = {"uid-a", "uid-b"}


def test_an_object_that_is_being_written_is_left_for_later() -> None:
    text = "\n".join(ROLLED)
    assert len(list(watched.objects(text))) == 9
    assert len(list(watched.objects(text[:-20]))) == 8
    assert not list(watched.objects(""))


def test_ready_pods_are_counted_once_all_old_ones_are_listed() -> None:
    changes = watched.changes("\n".join(ROLLED))
    assert [sample["gateway"] for sample in watched.ready(changes, OLD)] == [2, 2, 3, 2, 2, 3, 2, 2]
    assert watched.gone(changes) == OLD
    assert not watched.ready(changes[:1], OLD)


def test_a_pod_that_went_before_a_new_one_was_ready() -> None:
    assert not watched.too_early(watched.changes("\n".join(ROLLED)), OLD)
    hasty = [*ROLLED[:3], *ROLLED[4:]]
    assert watched.too_early(watched.changes("\n".join(hasty[:5])), OLD) == ["a"]


@pytest.mark.parametrize(
    ("last", "revision"),
    [
        ({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"terminating": True}}]}, 7),
        ({"endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": True}}]}, 7),
        ({"endpoints": None}, 7),
        ({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}]}, None),
    ],
    ids=["it ends", "another is there", "none is there", "it only is not ready"],
)
def test_when_an_address_left_a_service(last: dict[str, Any], revision: int | None) -> None:
    def event(number: int, content: dict[str, Any]) -> str:
        metadata = {"name": "triton-x", "resourceVersion": str(number)}
        return json.dumps({"type": "MODIFIED", "object": {"metadata": metadata, **content}})

    first = {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]}
    assert watched.left(event(5, first) + event(7, last), "10.0.0.1") == revision
    assert watched.left(event(5, first), "10.0.0.1") is None
