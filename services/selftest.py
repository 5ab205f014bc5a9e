"""What `helm test` runs: wait until the services serve, ingest a text, ask about it, check the citation, draw an image, tidy
up.

GENMESH_TARGET and GENMESH_API_KEY say where. With GENMESH_CA_FILE it calls over TLS, and trusts that authority, or the
system's where there is no such file. It ends with 1 and a sentence where something is not as it should be.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from pathlib import Path

import grpc
from genmesh import Client
from genmesh.errors import GenmeshError
from grpc_health.v1 import health_pb2, health_pb2_grpc

FACT = "The lamp of the north tower was lit by Ada Brook in 1911."
USED = ("genmesh.v1.RagService", "genmesh.v1.VectorSearchService", "genmesh.v1.DiffusionService")
WAIT_SECONDS = 60.0
PNG = b"\x89PNG\r\n\x1a\n"


def credentials() -> grpc.ChannelCredentials | None:
    if (name := os.environ.get("GENMESH_CA_FILE")) is None:
        return None
    ca = Path(name)
    return grpc.ssl_channel_credentials(ca.read_bytes() if ca.is_file() else None)


def wait_until_served(channel: grpc.Channel) -> None:
    """A gateway that has just started is ready before it has reached the services behind it."""
    health, deadline = health_pb2_grpc.HealthStub(channel), time.monotonic() + WAIT_SECONDS
    for service in USED:
        status = "no answer"
        while status != "SERVING":
            with contextlib.suppress(grpc.RpcError):
                answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            if status != "SERVING" and time.monotonic() > deadline:
                sys.exit(f"{service} does not serve after {WAIT_SECONDS:.0f} s: {status}.")
            time.sleep(0.5 if status != "SERVING" else 0)


def main() -> None:
    collection = "selftest-" + secrets.token_hex(4)
    target, key = os.environ["GENMESH_TARGET"], os.environ["GENMESH_API_KEY"]
    with Client(target, api_key=key, credentials=credentials()) as client:
        wait_until_served(client.channel)
        try:
            document = {"id": "tower", "title": "North tower", "text": FACT}
            for event in client.rag.Ingest(iter([{"collection": collection, "document": document}]), timeout=60):
                if event.HasField("failed"):
                    sys.exit(f"The text was not ingested: {event.failed.message}")
            question = {"collection": collection, "question": "Who lit the lamp of the north tower?"}
            answer = client.rag.Answer(question, timeout=60)
            print(f"answer: {answer.text!r}, citing {[c.quote for c in answer.citations]}")
            if not answer.answered or [c.document_id for c in answer.citations] != ["tower"]:
                sys.exit("The answer does not cite the text that holds it.")
            if any(citation.quote not in FACT for citation in answer.citations):
                sys.exit("A citation quotes what the text does not say.")
            drawn = client.diffusion.GenerateImage({"prompt": "a red circle"}, timeout=120).image
            print(f"image: {drawn.width} x {drawn.height}, {len(drawn.data)} bytes")
            if not drawn.data.startswith(PNG):
                sys.exit("The image is no PNG.")
        finally:
            with contextlib.suppress(GenmeshError):  # where it was not made, that has been told
                client.vector_search.DeleteCollection({"collection": collection}, timeout=15)
    print("All is well.")


if __name__ == "__main__":
    try:
        main()
    except GenmeshError as failure:
        sys.exit(f"The self-test failed: {failure}")
