"""Triton model ``upscaler`` on a GPU: a GAN's generator in torch that doubles an image's size in one pass.

A large image goes through in tiles that overlap by the network's reach, so that they join unseen and
memory stays bounded. ``network.py`` is the recipe's; the build copies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from network import SCALE, load
from tensors import error, model_card
from torch.nn import functional
from torch_device import place_of


class Cancelled(Exception):
    """The client left."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.max_pixels, self.reach, self.tile = card["max_pixels"], card["reach"], card["tile"]
        self.device, self.dtype = place_of(args, card)
        self.network = load(folder).to(self.device)
        # The bicubic part stays in float32, all of it: fewer bits there would move pixels by a level.
        torch.backends.cudnn.allow_tf32 = False
        for part in (self.network.head, self.network.body, self.network.tail):
            part.to(self.dtype)
        self._enlarge(np.zeros((64, 64, 3), np.uint8))
        if self.device.type == "cuda":  # lack of memory shows when it loads
            side = self.tile + 2 * self.reach
            self._enlarge(np.zeros((side, side, 3), np.uint8))

    @torch.inference_mode()
    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) to (2 H, 2 W, 3), uint8."""
        network = self.network
        pixels = torch.from_numpy(np.array(image)).to(self.device)
        x = pixels.permute(2, 0, 1).unsqueeze(0).float() / 255
        features = network.head((x - 0.5).to(self.dtype))
        detail = functional.pixel_shuffle(network.tail(features + network.body(features)), SCALE)
        found = (network.bicubic(x) + detail.float()).clamp(0, 1)
        return np.ascontiguousarray((found * 255 + 0.5).to(torch.uint8)[0].permute(1, 2, 0).cpu().numpy())

    def _upscale(self, request: Any) -> np.ndarray:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        height, width = image.shape[:2]
        if not 0 < height * width <= self.max_pixels:
            raise ValueError(f"an image has 1 to {self.max_pixels} pixels, this one {width} x {height}")
        if max(height, width) <= self.tile:
            return self._enlarge(image)
        whole = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                if request.is_cancelled():
                    raise Cancelled
                above, before = max(0, top - self.reach), max(0, left - self.reach)
                below, after = min(height, top + self.tile), min(width, left + self.tile)
                part = self._enlarge(image[above : below + self.reach, before : after + self.reach])
                whole[top * 2 : below * 2, left * 2 : after * 2] = part[
                    (top - above) * 2 : (below - above) * 2, (left - before) * 2 : (after - before) * 2
                ]
        return whole

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                image = self._upscale(request)
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("image", image)]))
            except Cancelled:
                gone = pb_utils.TritonError("upscaler: the client left", pb_utils.TritonError.CANCELLED)
                responses.append(pb_utils.InferenceResponse(error=gone))
            except Exception as failure:  # a bad request ends alone
                responses.append(error(f"upscaler: {failure}"))
        return responses
