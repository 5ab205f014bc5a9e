"""What the diffusers of both profiles do alike: wait for requests, draw one image after another, tell each step.

The build copies this file beside their ``model.py``. Requests wait in a queue of their own, so that one whose client
left while it waited costs nothing.
"""

from __future__ import annotations

import queue
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from inbox import supervised, work_off
from measured import Measured
from tensors import error, model_card, value

# How long a model that is unloaded goes on with the images that wait.
DRAIN_SECONDS = 300
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Cancelled(Exception):
    """The client left."""


class Drawing:
    """One request at work."""

    def __init__(self, asked: dict[str, Any], sender: Any) -> None:
        self.asked, self.sender, self.done = asked, sender, 0

    def respond(self, image: np.ndarray | None, *, final: bool) -> None:
        tensors = [
            pb_utils.Tensor("step", np.array([self.done], dtype=np.int32)),
            pb_utils.Tensor("final", np.array([final], dtype=np.bool_)),
        ]
        if image is not None:
            tensors.append(pb_utils.Tensor("image", np.ascontiguousarray(image)))
        self.sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if final else 0)

    def after_step(self, done: int, decode: Callable[[], np.ndarray] | None) -> None:
        """Tell that ``done`` steps are, with a preview where one is due and can be had; Cancelled where nobody listens."""
        self.done = done
        if self.sender.is_cancelled():
            raise Cancelled
        every = self.asked["preview_every_steps"]
        preview = every and done % every == 0 and done < self.asked["steps"]
        self.respond(decode() if preview and decode else None, final=False)


class Diffuser:
    """A Triton model; ``load`` and ``generate`` are the profile's."""

    def load(self, args: dict[str, str], folder: Any, card: dict[str, Any]) -> None:
        raise NotImplementedError

    def generate(self, drawing: Drawing) -> np.ndarray:
        """The picture, uint8 (height, width, 3); calls ``drawing.after_step``, whose Cancelled ends it."""
        raise NotImplementedError

    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.load(args, folder, card)
        self.inbox: queue.Queue[Drawing | None] = queue.Queue(card["max_waiting"])
        self.measured = Measured("diffuser", args)
        self.thread = supervised("diffuser", lambda: work_off(self.inbox, self._work))

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = {
                    name: value(request, name)
                    for name in ("prompt", "width", "height", "steps", "guidance_scale", "seed")
                }
                asked["negative_prompt"] = value(request, "negative_prompt", "")
                asked["preview_every_steps"] = value(request, "preview_every_steps", 0)
                self.inbox.put_nowait(Drawing(asked, sender))
                self.measured.set("waiting_requests", self.inbox.qsize())
            except Exception as failure:  # a bad request ends alone
                reason = "too many images wait already" if isinstance(failure, queue.Full) else failure
                sender.send(error(f"diffuser: {reason}"), flags=FINAL)

    def _work(self, drawing: Drawing) -> None:
        self.measured.set("waiting_requests", self.inbox.qsize())
        self.measured.set("running_requests", 1)
        try:
            if drawing.sender.is_cancelled():
                raise Cancelled
            drawing.respond(self.generate(drawing), final=True)
        except Cancelled:
            self.measured.increment("cancelled_requests_total", 1)
            self.measured.increment("saved_steps_total", drawing.asked["steps"] - drawing.done)
            drawing.sender.send(flags=FINAL)
        except Exception as failure:  # a bad request ends alone
            traceback.print_exc()
            drawing.sender.send(error(f"diffuser: {failure}"), flags=FINAL)
        finally:
            self.measured.set("running_requests", 0)

    def finalize(self) -> None:
        self.inbox.put(None)  # behind what waits: that is drawn first
        self.thread.join(timeout=DRAIN_SECONDS)
