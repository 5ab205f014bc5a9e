"""What can be connected to from somewhere, and from a pod that belongs to nobody."""

from __future__ import annotations

import json
from typing import Any

import yaml

from deploy.cluster.cluster import NAMESPACE, Cluster
from tests.cluster.workloads import pods

# A program: its argument is JSON, a list of [name, host, port, seconds to try (2)]; it prints what became of a
# connection to each, by name.
PROBE = """
import concurrent.futures, json, socket, sys
def tried(name, host, port, seconds=2):
    try:
        socket.create_connection((host, port), timeout=seconds).close()
        return name, "open"
    except OSError as failure:
        return name, type(failure).__name__
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(dict(pool.map(lambda place: tried(*place), json.loads(sys.argv[1])))))
"""
PORTS = {"redis": (6379, 9121), "milvus": (19530, 9091), "prometheus": (9090,), "triton": (8000, 8001, 8002)}
SERVICE_PORTS = (8080, 9100)
# What any pod may connect to.
ALLOWED = {("gateway", 8080), ("gateway", 8090)}
# Network policies drop packets, so what they forbid takes all the time that it is given.
SECONDS_ALLOWED, SECONDS_FORBIDDEN = 60, 5


def stray(name: str, places: list[list[Any]], labels: dict[str, str] | None = None, **security: object) -> str:
    """A pod of nobody's, as YAML, that tries to connect to places."""
    container = {
        "name": "stray", "image": "genmesh/services:0.1.0", "command": ["/opt/genmesh/bin/python", "-c", PROBE],
        "args": [json.dumps(places)],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}} | security,
    }  # fmt: skip
    spec = {
        "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 20000, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    text: str = yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}
    )
    return text


def reached(
    cluster: Cluster, namespace: str, labels: dict[str, str] | None = None, seconds: int = 90
) -> dict[tuple[str, int], set[str]]:
    """What became of a stray pod's connections to every port of the release: component and port -> outcomes."""
    ports = {}
    for pod in pods(cluster):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for port in (*PORTS.get(component, SERVICE_PORTS), *((8090,) if component == "gateway" else ())):
            ports[f"{pod['metadata']['name']}:{port}"] = (component, pod["status"]["podIP"], port)
    places: list[list[Any]] = [
        [name, address, port, SECONDS_ALLOWED if (component, port) in ALLOWED else SECONDS_FORBIDDEN]
        for name, (component, address, port) in ports.items()
    ]
    pod = stray("stray", places, labels)
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=pod)
    try:
        phase = "--for=jsonpath={.status.phase}=Succeeded"
        cluster.kubectl("wait", "pod/stray", f"--namespace={namespace}", phase, f"--timeout={seconds}s")
        outcomes = json.loads(cluster.kubectl("logs", "stray", f"--namespace={namespace}"))
    finally:
        cluster.kubectl("delete", "pod", "stray", f"--namespace={namespace}", "--now")
    found: dict[tuple[str, int], set[str]] = {}
    for name, (component, _, port) in ports.items():
        found.setdefault((component, port), set()).add(outcomes[name])
    return found


def refusal(cluster: Cluster) -> str:
    """What the API says to a privileged pod in the release's namespace; "" if it takes it."""
    pod = stray("bad", [], allowPrivilegeEscalation=True)
    try:
        cluster.kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=pod)
    except RuntimeError as refused:
        return str(refused)
    return ""
