"""Triton's explicit model control, over gRPC: load what config.pbtxt allows, beside what runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from genmesh_models.errors import BuildError

LOAD_SECONDS = 300.0


def load(url: str, name: str, versions: Sequence[int]) -> None:
    """Have Triton at ``host:port`` load a model anew and wait until these versions are ready.

    Versions that it serves go on until the new ones are ready, and finish the requests that they have.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(url)
    try:
        client.load_model(name, client_timeout=LOAD_SECONDS)
        limit = time.monotonic() + LOAD_SECONDS
        while not all(client.is_model_ready(name, str(version)) for version in versions):
            if time.monotonic() > limit:
                raise BuildError(f"{name}: Triton at {url} did not make version {versions[-1]} ready")
            time.sleep(0.1)
    except InferenceServerException as failure:
        raise BuildError(f"{name}: Triton at {url} does not serve it: {failure.message()}") from None
    finally:
        client.close()
