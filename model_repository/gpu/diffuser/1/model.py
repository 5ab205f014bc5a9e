"""Triton model ``diffuser`` on a GPU: a Stable-Diffusion-shaped pipeline in torch (diffusers), one image at a time.

Requests wait in a queue of their own, so that one whose client left while it waited costs nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from diffusers import StableDiffusionPipeline
from inbox import work_off
from noise import normal
from tensors import error, model_card, value
from torch_device import place_of

# How long a model that is unloaded goes on with the images that wait.
DRAIN_SECONDS = 300
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Cancelled(Exception):
    """The client left."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.device, self.dtype = place_of(args, card)
        self.pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=self.dtype).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
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
        size = {"width": card["default_width"], "height": card["default_height"]}
        self._generate({"prompt": "warm up", "negative_prompt": "", "steps": 2, "guidance_scale": 2.0, "seed": 0} | size,
                       lambda done, latents: None)  # fmt: skip
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

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        """A picture, uint8 height x width x RGB, of latents (1, channels, h, w)."""
        vae = self.pipeline.vae
        picture = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0][0]
        pixels = ((picture.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def _generate(self, asked: dict[str, Any], after_step: Callable[[int, torch.Tensor], None]) -> np.ndarray:
        """The picture; ``after_step`` gets how many steps are done and the latents, and may raise to end it."""
        pipeline, seed = self.pipeline, asked["seed"] % 2**32
        scale = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, asked["height"] // scale, asked["width"] // scale)
        noise = torch.from_numpy(normal(seed, int(np.prod(shape))).reshape(shape))

        def on_step(_pipeline: Any, step: int, _time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            if self.device.type == "cuda":
                # The host runs ahead of the GPU; a step counts, and the client is asked for, when it is done.
                torch.cuda.synchronize(self.device)
            after_step(min(step + 1, asked["steps"]), tensors["latents"])
            return {}

        latents = pipeline(
            asked["prompt"], negative_prompt=asked["negative_prompt"] or None, width=asked["width"],
            height=asked["height"], num_inference_steps=asked["steps"], guidance_scale=asked["guidance_scale"],
            latents=noise.to(self.device, self.dtype), output_type="latent", callback_on_step_end=on_step,
            # For schedulers that add noise at each step.
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
        return self._decode(latents)

    def _draw(self, asked: dict[str, Any], sender: Any) -> None:
        steps, every = asked["steps"], asked["preview_every_steps"]
        done = 0

        def respond(image: np.ndarray | None, *, final: bool) -> None:
            tensors = [
                pb_utils.Tensor("step", np.array([done], dtype=np.int32)),
                pb_utils.Tensor("final", np.array([final], dtype=np.bool_)),
            ]
            if image is not None:
                tensors.append(pb_utils.Tensor("image", image))
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if final else 0)

        def after_step(count: int, latents: torch.Tensor) -> None:
            nonlocal done
            done = count
            if sender.is_cancelled():
                raise Cancelled
            respond(self._decode(latents) if every and done % every == 0 and done < steps else None, final=False)

        try:
            if sender.is_cancelled():
                raise Cancelled
            image = self._generate(asked, after_step)
        except Cancelled:
            self.cancelled.increment(1)
            self.saved_steps.increment(steps - done)
            sender.send(flags=FINAL)
            return
        respond(image, final=True)

    def finalize(self) -> None:
        self.inbox.put(None)  # behind what waits: that is drawn first
        self.thread.join(timeout=DRAIN_SECONDS)
