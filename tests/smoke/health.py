"""python -m tests.smoke.health NAME=ADDRESS ...: follow the health of pods until they drain; run in their node's network.

Each pod of a service has a stream of its health (grpc.health.v1 Watch) from before it is told to end, so that no drain is
too short to be seen. Prints one JSON object for each event of a pod:

    {"pod": NAME, "health": "SERVING"}       what its stream said
    {"pod": NAME, "drains": true}            NOT_SERVING, and not because a dependency was away
    {"pod": NAME, "counted": {STATUS: N}}    a gateway's calls by status, when it takes no more and none is left
    {"pod": NAME, "broke": "..."}            the stream ended otherwise

A gateway (its name says so) ends only when the last call has ended, and its stream is one: it is held open until the
calls are counted, for the counters end with the process.

    python -m tests.smoke.health --count NAME=ADDRESS ...     prints the third kind at once, for gateways that go on
    python -m tests.smoke.health --serving NAME=ADDRESS ...   ends when all are SERVING, with all that they need
"""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

PORT, METRICS_PORT = 8080, 9100
PATIENCE = 60.0  # seconds; ends a question that hangs
# Of the whole server. gRPC's own Watch (1.81) forgets all watchers of a name when one of them leaves, and other services
# come and go at "itself"; nobody else watches this name. It is NOT_SERVING also while a dependency is away.
WHOLE, ITSELF = "", "itself"
SERVING = health_pb2.HealthCheckResponse.SERVING


def tell(pod: str, **event: object) -> None:
    print(json.dumps({"pod": pod, **event}), flush=True)


def counts(address: str) -> tuple[float, Counter[str]]:
    """A gateway's calls that run now, and those that ended, by status."""
    with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics", timeout=PATIENCE) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    running, ended = 0.0, Counter[str]()
    for family in families:
        for sample in family.samples:
            if sample.name == "genmesh_gateway_requests_in_flight":
                running = sample.value
            elif sample.name == "genmesh_gateway_requests_total" and sample.value:
                ended[sample.labels["code"]] += int(sample.value)
    return running, ended


def accepts(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


def drains(stub: Any) -> bool:
    """Whether a server that said NOT_SERVING ends: else it is SERVING itself, and only a dependency is away."""
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=ITSELF), timeout=PATIENCE)
    except grpc.RpcError as failure:
        if failure.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return True  # it takes no new calls any more
    return bool(answer.status != SERVING)


def follow(pod: str, address: str) -> None:
    with grpc.insecure_channel(f"{address}:{PORT}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest(service=WHOLE))
        try:
            for answer in stream:
                tell(pod, health=health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
                if answer.status != SERVING and drains(stub):
                    tell(pod, drains=True)
                    break
            else:
                tell(pod, broke="ended")
                return
            if "gateway" in pod:
                while accepts(address) or counts(address)[0]:
                    time.sleep(0.5)
                tell(pod, counted=counts(address)[1])
        except (grpc.RpcError, OSError) as failure:
            tell(pod, broke=repr(failure))
        finally:
            stream.cancel()


def serving(address: str) -> None:
    with grpc.insecure_channel(f"{address}:{PORT}") as channel:
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=WHOLE))
        next(answer for answer in stream if answer.status == SERVING)
        stream.cancel()


def main() -> None:
    option = sys.argv[1] if sys.argv[1].startswith("--") else ""
    pods = dict(argument.split("=") for argument in sys.argv[2 if option else 1 :])
    for pod, address in pods.items():
        if option == "--count":
            tell(pod, counted=counts(address)[1])
        elif option == "--serving":
            serving(address)
    if not option:
        with ThreadPoolExecutor(len(pods)) as pool:
            for followed in [pool.submit(follow, *pod) for pod in pods.items()]:
                followed.result()


if __name__ == "__main__":
    main()
