"""Tensors of Triton requests and responses; the build copies it beside each ``model.py``."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

T = TypeVar("T")
LOOK_SECONDS = 0.05  # between two looks at whether a request's client is still there


def value(request: Any, name: str, default: Any = None) -> Any:
    """The first element of an input; ``default`` where the request lacks it. BYTES come as ``str``."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    found = tensor.as_numpy().reshape(-1)
    if not len(found):
        return default
    return found[0].decode("utf-8") if isinstance(found[0], bytes) else found[0].item()


def texts(request: Any, name: str) -> list[str]:
    """All elements of a BYTES input."""
    return [item.decode("utf-8") for item in pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)]


def model_card(args: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    """The folder of this version's weights and what the build wrote about them."""
    version = Path(args["model_repository"]) / args["model_version"]
    return version / "weights", json.loads((version / "card.json").read_text())


def error(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))


def gone(model: str) -> Any:
    """The response to a request whose client left: nobody reads it."""
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(f"{model}: the client left", pb_utils.TritonError.CANCELLED)
    )


class Batch(Generic[T]):
    """The requests that Triton gives a model at once, read one by one: what one raises ends it alone, and work for those
    whose client left is broken off."""

    def __init__(self, model: str, requests: Sequence[Any], read: Callable[[Any], Sequence[T]]) -> None:
        self.model, self.requests = model, requests
        self.responses: list[Any] = [None] * len(requests)
        self.items: list[T] = []
        self.owners: list[int] = []  # the request of each item
        # Most batches are over before the first look.
        self._look_after = [time.monotonic() + LOOK_SECONDS] * len(requests)
        for number, request in enumerate(requests):
            try:
                if self._left(number):
                    continue
                found = read(request)
            except Exception as failure:
                self.responses[number] = error(f"{model}: {failure}")
                continue
            self.items += found
            self.owners += [number] * len(found)

    def _open(self) -> list[int]:
        """The requests that have no response yet."""
        return [number for number, response in enumerate(self.responses) if response is None]

    def _alone(self, number: int) -> Batch[T]:
        items = [item for item, owner in zip(self.items, self.owners, strict=True) if owner == number]
        return Batch(self.model, [self.requests[number]], lambda _: items)

    def _left(self, number: int) -> bool:
        """Whether a request's client left; asked now and then, for it is a message to Triton's process and back."""
        if self.responses[number] is None and time.monotonic() >= self._look_after[number]:
            self._look_after[number] = time.monotonic() + LOOK_SECONDS
            if self.requests[number].is_cancelled():
                self.responses[number] = gone(self.model)
        return self.responses[number] is not None

    def wanted(self, index: int) -> bool:
        """Whether somebody still waits for an item."""
        return not self._left(self.owners[index])

    def any_wanted(self, _: int) -> bool:
        """True as long as somebody waits for any item; raises where nobody does."""
        if all(self._left(number) for number in set(self.owners)):
            raise RuntimeError("all clients left")
        return True

    def answer(
        self,
        work: Callable[[Sequence[T], Callable[[int], bool]], Sequence[Any]],
        respond: Callable[[list[T], list[Any]], Any],
    ) -> list[Any]:
        """A response to each request. ``work`` gets all items and `wanted`, and gives a result for each; if it fails, each
        request is worked on alone. ``respond`` makes a response of a request's items and results."""
        open_ = self._open()
        try:
            results = work(self.items, self.wanted) if open_ else []
        except Exception as failure:
            if self._open():
                traceback.print_exc()
            for number in self._open():
                if len(open_) == 1:
                    self.responses[number] = error(f"{self.model}: {failure}")
                else:
                    (self.responses[number],) = self._alone(number).answer(work, respond)
            return self.responses
        for number in self._open():  # clients may have left meanwhile
            mine = [index for index, owner in enumerate(self.owners) if owner == number]
            try:
                made = respond([self.items[index] for index in mine], [results[index] for index in mine])
            except Exception as failure:
                traceback.print_exc()
                made = error(f"{self.model}: {failure}")
            self.responses[number] = made
        return self.responses


def ranked(requests: Sequence[Any], score: Callable[..., np.ndarray]) -> list[Any]:
    """A response with ``score`` for each request with ``query`` and ``passage``; all pairs are scored together.

    ``score`` gets the pairs and what is to be asked before each batch of them (`any_wanted`)."""

    def pairs(request: Any) -> list[tuple[str, str]]:
        return list(zip(texts(request, "query"), texts(request, "passage"), strict=True))

    def respond(_: list[tuple[str, str]], scores: list[Any]) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor("score", np.array(scores, np.float32)[:, None])])

    batch = Batch("reranker", requests, pairs)
    return batch.answer(lambda items, _: score(items, batch.any_wanted), respond)
