"""Triton's explicit model control, over gRPC: load what config.pbtxt allows, beside what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from genmesh_models.errors import BuildError, NotLoaded

LOAD_SECONDS = 300.0
# Triton gives a model up whose process gives no heartbeat for a second while it loads, as on a busy machine.
GIVEN_UP, ATTEMPTS = "is not healthy", 3
REACH_SECONDS = 10.0


@contextmanager
def asked(url: str, failed: str, error: type[BuildError] = BuildError) -> Iterator[Any]:
    """A client of Triton at ``host:port``; what Triton refuses is an ``error`` that begins with ``failed``."""
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(url)
    try:
        yield client
    except InferenceServerException as failure:
        raise error(f"{failed}: {failure.message()}") from None
    finally:
        client.close()


def reach(url: str) -> None:
    """BuildError where no Triton answers at ``host:port``: before a build, not after it."""
    with asked(url, f"Triton at {url} does not answer") as client:
        client.is_server_live(client_timeout=REACH_SECONDS)


def loaded(url: str, name: str) -> set[int]:
    """The versions of a model that Triton at ``host:port`` serves."""
    with asked(url, f"{name}: Triton at {url} does not tell what it serves") as client:
        index = client.get_model_repository_index(client_timeout=REACH_SECONDS)
    return {int(m.version) for m in index.models if m.name == name and m.state == "READY" and m.version.isdigit()}


def load(url: str, name: str, versions: Sequence[int]) -> None:
    """Have Triton at ``host:port`` load a model anew and wait until these versions are ready; NotLoaded where it does not.

    Versions that it serves go on until the new ones are ready, and finish the requests that they have.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _load(url, name, versions)
            return
        except NotLoaded as failure:
            if GIVEN_UP not in str(failure) or attempt == ATTEMPTS:
                raise


def _load(url: str, name: str, versions: Sequence[int]) -> None:
    with asked(url, f"{name}: Triton at {url} does not serve it", NotLoaded) as client:
        client.load_model(name, client_timeout=LOAD_SECONDS)
        limit = time.monotonic() + LOAD_SECONDS
        while not all(client.is_model_ready(name, str(version)) for version in versions):
            if time.monotonic() > limit:
                raise NotLoaded(f"{name}: Triton at {url} did not make version {versions[-1]} ready")
            time.sleep(0.1)
