"""Triton model ``upscaler``: a GAN's generator on OpenVINO that doubles an image's size in one pass.

A large image goes through in tiles that overlap by the network's reach, so that they join unseen and
memory stays bounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils
from plugin import options
from tensors import error, model_card


class Cancelled(Exception):
    """The client left."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder, card = model_card(args)
        self.max_pixels, self.reach, self.tile = card["max_pixels"], card["reach"], card["tile"]
        compiled = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", options(card))
        self.request = compiled.create_infer_request()
        self._enlarge(np.zeros((64, 64, 3), np.uint8))

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) to (2 H, 2 W, 3), uint8."""
        return np.array(self.request.infer([np.ascontiguousarray(image)])[0])

    def _upscale(self, request: Any) -> np.ndarray:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        height, width = image.shape[:2]
        if not 0 < height * width <= self.max_pixels:
            raise ValueError(f"an image has 1 to {self.max_pixels} pixels, this one {width} x {height}")
        if max(height, width) <= self.tile:
            return self._enlarge(image)
        whole = np.empty((height * 2, width * 2, 3), np.uint8)
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
