"""Requests that Triton gives a model at once: one that is wrong, or whose client left, costs the others nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

SHARED = str(ROOT / "model_repository" / "shared")


class TritonError:
    CANCELLED = 6

    def __init__(self, text: str, code: int = 0) -> None:
        self.text, self.code = text, code


class Request:
    """``leaves_at``: the look at which its client is gone."""

    def __init__(self, *texts: bytes, leaves_at: float = float("inf"), **more: Sequence[bytes]) -> None:
        self.inputs = {"text": texts, **more}
        self.leaves_at, self.looks = leaves_at, 0

    def is_cancelled(self) -> bool:
        self.looks += 1
        return self.looks >= self.leaves_at


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a stand-in for what Triton's process has; each look asks."""
    stand_in = ModuleType("triton_python_backend_utils")
    stand_in.__dict__.update(
        TritonError=TritonError,
        Tensor=lambda name, array: SimpleNamespace(name=name, array=array),
        InferenceResponse=lambda outputs=(), error=None: SimpleNamespace(outputs=outputs, error=error),
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(
            as_numpy=lambda: np.array(request.inputs[name], dtype=np.object_)
        ),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    monkeypatch.delitem(sys.modules, "tensors", raising=False)
    monkeypatch.syspath_prepend(SHARED)
    import tensors

    monkeypatch.setattr(tensors, "LOOK_SECONDS", 0)
    monkeypatch.setattr(tensors.traceback, "print_exc", lambda: None)
    yield tensors
    sys.modules.pop("tensors", None)


def lengths(tensors: Any, requests: list[Request], work: Callable[..., Any] | None = None) -> list[Any]:
    """What each request gets of a model that tells how long texts are: a list of numbers, or an error."""

    def count(items: Sequence[str], wanted: Callable[[int], bool]) -> list[int]:
        return [len(item) if wanted(index) else -1 for index, item in enumerate(items)]

    batch = tensors.Batch("model", requests, lambda request: tensors.texts(request, "text"))
    answers = batch.answer(work or count, lambda items, results: SimpleNamespace(error=None, outputs=results))
    return [answer.error or answer.outputs for answer in answers]


def test_each_gets_its_own(tensors: Any) -> None:
    assert lengths(tensors, [Request(b"a", b"bb"), Request(b"ccc")]) == [[1, 2], [3]]
    assert lengths(tensors, []) == []


def test_a_text_that_is_none_fails_alone(tensors: Any) -> None:
    first, wrong, last = lengths(tensors, [Request(b"a"), Request(b"fine", b"\xff\xfe"), Request(b"ccc")])
    assert (first, last) == ([1], [3])
    assert wrong.text.startswith("model: 'utf-8' codec")


def test_work_that_fails_is_done_for_each_alone(tensors: Any) -> None:
    def work(items: Sequence[str], wanted: Callable[[int], bool]) -> list[int]:
        if "poison" in items:
            raise ValueError("cannot read it")
        return [len(item) for item in items]

    requests = [Request(b"a"), Request(b"poison"), Request(b"ccc", b"d")]
    first, wrong, last = lengths(tensors, requests, work)
    assert (first, last) == ([1], [3, 1])
    assert wrong.text == "model: cannot read it"


def test_a_client_that_left_is_computed_nothing_more(tensors: Any) -> None:
    staying, leaving = Request(b"a", b"bb"), Request(*[b"x"] * 9, leaves_at=4)
    seen: list[str] = []

    def work(items: Sequence[str], wanted: Callable[[int], bool]) -> list[int]:
        found = []
        for index, item in enumerate(items):
            if wanted(index):
                seen.append(item)
                found.append(len(item))
            else:
                found.append(-1)
        return found

    kept, left = lengths(tensors, [staying, leaving], work)
    assert kept == [1, 2]
    assert left.code == TritonError.CANCELLED
    assert seen == ["a", "bb", "x", "x"]


def test_a_client_that_left_before_is_not_even_read(tensors: Any) -> None:
    kept, left = lengths(tensors, [Request(b"a"), Request(b"\xff", leaves_at=1)])
    assert kept == [1]
    assert left.code == TritonError.CANCELLED


def test_a_response_that_cannot_be_made_fails_alone(tensors: Any) -> None:
    def respond(items: list[str], results: list[int]) -> Any:
        if len(items) > 1:
            raise ValueError("too many")
        return SimpleNamespace(error=None, outputs=results)

    batch = tensors.Batch("model", [Request(b"a", b"b"), Request(b"c")], lambda r: tensors.texts(r, "text"))
    wrong, right = batch.answer(lambda items, *_: [1] * len(items), respond)
    assert wrong.error.text == "model: too many"
    assert right.outputs == [1]


def pairs(query: bytes, *passages: bytes, leaves_at: float = float("inf")) -> Request:
    return Request(leaves_at=leaves_at, query=[query] * len(passages), passage=passages)


def test_pairs_are_scored_together_until_nobody_waits(tensors: Any) -> None:
    def score(items: Sequence[tuple[str, str]], wanted: Callable[[int], bool]) -> np.ndarray:
        return np.array([len(passage) for _, passage in items if wanted(0)], np.float32)

    answers = tensors.ranked([pairs(b"q", b"a", b"bb"), pairs(b"r", b"ccc", leaves_at=2)], score)
    found = [answer.outputs[0].array.tolist() for answer in answers]
    assert found == [[[1], [2]], [[3]]]  # one whose client left was computed with the other

    calls: list[int] = []

    def counted(items: Sequence[Any], wanted: Callable[[int], bool]) -> np.ndarray:
        for index in range(10):
            wanted(index)
            calls.append(index)
        return np.zeros(len(items), np.float32)

    gone = tensors.ranked([pairs(b"q", b"a", leaves_at=4), pairs(b"r", b"b", leaves_at=2)], counted)
    assert [answer.error.code for answer in gone] == [TritonError.CANCELLED] * 2
    assert calls == [0, 1]
