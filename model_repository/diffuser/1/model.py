"""Triton model ``diffuser``: a Stable-Diffusion-shaped pipeline on OpenVINO GenAI, one image at a time.

Requests wait in a queue of their own, so that one whose client left while it waited costs nothing.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import openvino_genai
import triton_python_backend_utils as pb_utils
from inbox import work_off
from tensors import error, model_card, value

# How long a model that is unloaded goes on with the images that wait.
DRAIN_SECONDS = 300
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.pipeline = openvino_genai.Text2ImagePipeline(folder, "CPU")
        self.inbox: queue.Queue[tuple[dict[str, Any], Any] | None] = queue.Queue(card["max_waiting"])
        self._families = []  # a family must outlive its metrics
        self.cancelled, self.saved_steps, self.running = (
            self._metric(name, description, kind, args)
            for name, description, kind in (
                (
                    "cancelled_requests_total",
                    "Images dropped because their client went away",
                    pb_utils.MetricFamily.COUNTER,
                ),
                ("saved_steps_total", "Steps that cancelled images did not run", pb_utils.MetricFamily.COUNTER),
                ("running_requests", "Images being drawn", pb_utils.MetricFamily.GAUGE),
            )
        )
        self.thread = threading.Thread(target=work_off, args=(self.inbox, self._work), name="diffuser", daemon=True)
        self.thread.start()

    def _metric(self, name: str, description: str, kind: Any, args: dict[str, str]) -> Any:
        family = pb_utils.MetricFamily(name=f"genmesh_diffuser_{name}", description=description, kind=kind)
        self._families.append(family)
        return family.Metric(labels={"model": args["model_name"], "version": args["model_version"]})

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
                self.inbox.put_nowait((asked, sender))
            except Exception as failure:  # a bad request ends alone
                reason = "too many images wait already" if isinstance(failure, queue.Full) else failure
                sender.send(error(f"diffuser: {reason}"), flags=FINAL)

    def _work(self, item: tuple[dict[str, Any], Any]) -> None:
        asked, sender = item
        self.running.set(1)
        try:
            self._draw(asked, sender)
        except Exception as failure:  # a bad request ends alone
            sender.send(error(f"diffuser: {failure}"), flags=FINAL)
        self.running.set(0)

    def _draw(self, asked: dict[str, Any], sender: Any) -> None:
        steps, every = asked["steps"], asked["preview_every_steps"]
        done = 0

        def respond(image: np.ndarray | None, *, final: bool) -> None:
            tensors = [
                pb_utils.Tensor("step", np.array([done], dtype=np.int32)),
                pb_utils.Tensor("final", np.array([final], dtype=np.bool_)),
            ]
            if image is not None:
                tensors.append(pb_utils.Tensor("image", np.ascontiguousarray(image)))
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if final else 0)

        def after_step(step: int, total: int, latent: Any) -> bool:
            nonlocal done
            done = step + 1
            if sender.is_cancelled():
                return True
            preview = every and done % every == 0 and done < steps
            respond(np.array(self.pipeline.decode(latent).data)[0] if preview else None, final=False)
            return False

        image = None
        if not sender.is_cancelled():
            options = {"negative_prompt": asked["negative_prompt"]} if asked["negative_prompt"] else {}
            image = self.pipeline.generate(
                asked["prompt"], width=asked["width"], height=asked["height"], num_inference_steps=steps,
                guidance_scale=asked["guidance_scale"], generator=openvino_genai.CppStdGenerator(asked["seed"] % 2**32),
                callback=after_step, **options,
            )  # fmt: skip
        if image is None or (done < steps and sender.is_cancelled()):
            self.cancelled.increment(1)
            self.saved_steps.increment(steps - done)
            sender.send(flags=FINAL)
            return
        respond(np.array(image.data)[0], final=True)

    def finalize(self) -> None:
        self.inbox.put(None)  # behind what waits: that is drawn first
        self.thread.join(timeout=DRAIN_SECONDS)
