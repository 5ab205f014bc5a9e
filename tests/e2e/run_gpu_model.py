"""Run a built version's ``model.py`` outside Triton, with a stand-in for the stub's module.

    python run_gpu_model.py VERSION_FOLDER REQUEST.json RESPONSES.npz [CANCEL_AFTER]

REQUEST.json: ``{tensor: {"dtype": "BYTES" or numpy's name, "data": nested lists}}``. RESPONSES.npz: the
tensors of response N under ``N/tensor``; those of a decoupled model's one request in their order.
With CANCEL_AFTER the client leaves after that many responses.
"""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np

FINAL = 1


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    CANCELLED = 6

    def __init__(self, message: str, code: int = 0) -> None:
        self.text, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self.error = output_tensors or [], error


class MetricFamily:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Any:
        return types.SimpleNamespace(set=lambda value: None, increment=lambda value: None)


class Request:
    """A request, and its own response sender."""

    def __init__(self, inputs: dict[str, np.ndarray], cancel_after: int | None = None) -> None:
        self.inputs, self.cancel_after = inputs, cancel_after
        self.responses: list[InferenceResponse] = []
        self.ended = threading.Event()

    def get_response_sender(self) -> Request:
        return self

    def is_cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.responses) >= self.cancel_after

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if response is not None:
            self.responses.append(response)
        if flags & FINAL:
            self.ended.set()


def array_of(given: dict[str, Any]) -> np.ndarray:
    if given["dtype"] == "BYTES":
        rows = np.array(given["data"], dtype=np.object_)
        return np.vectorize(str.encode, otypes=[np.object_])(rows)
    return np.array(given["data"], dtype=given["dtype"])


def main() -> None:
    version, request_file, out = (Path(argument) for argument in sys.argv[1:4])
    stand_in = types.ModuleType("triton_python_backend_utils")
    stand_in.__dict__.update(
        Tensor=Tensor, TritonError=TritonError, InferenceResponse=InferenceResponse, MetricFamily=MetricFamily,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        get_input_tensor_by_name=lambda request, name: (
            Tensor(name, request.inputs[name]) if name in request.inputs else None
        ),
    )  # fmt: skip
    sys.modules["triton_python_backend_utils"] = stand_in
    sys.path.insert(0, str(version))
    import model

    args = {
        "model_repository": str(version.parent), "model_name": version.parent.name, "model_version": version.name,
        "model_instance_kind": "CPU", "model_instance_device_id": "0",
    }  # fmt: skip
    served = model.TritonPythonModel()
    served.initialize(args)
    given = json.loads(request_file.read_text())
    cancel_after = int(sys.argv[4]) if len(sys.argv) > 4 else None
    request = Request({name: array_of(tensor) for name, tensor in given.items()}, cancel_after)
    answers = served.execute([request])
    if answers is None:
        request.ended.wait(600)
        answers = request.responses
    if hasattr(served, "finalize"):
        served.finalize()
    found = {}
    for number, answer in enumerate(answers):
        if answer.error is not None:
            sys.exit(answer.error.text)
        found |= {f"{number}/{tensor.name()}": tensor.as_numpy() for tensor in answer.tensors}
    np.savez(out, **found)


if __name__ == "__main__":
    main()
