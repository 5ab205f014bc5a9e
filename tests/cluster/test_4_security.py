"""Who may do what: network policies, the Pod Security Standard, keys, certificates."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time
from pathlib import Path

import pytest
import trustme
import yaml

from deploy.cluster.cluster import NAMESPACE, RELEASE, Cluster, eventually
from tests.cluster.test_1_install import pods

PROBE = """
import json, socket, sys
found = {}
for name, host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=2).close()
        found[name] = "open"
    except OSError as failure:
        found[name] = type(failure).__name__
print(json.dumps(found))
"""
PORTS = {"redis": (6379,), "milvus": (19530,), "prometheus": (9090,), "triton": (8000, 8001, 8002)}


def stray(name: str, places: list[tuple[str, str, int]], **security: object) -> str:
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
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def test_a_stray_pod_reaches_the_gateway_and_nothing_else(cluster: Cluster) -> None:
    places: list[tuple[str, str, int]] = []
    allowed = set()
    for pod in pods(cluster):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for port in (*PORTS.get(component, (8080, 9100)), *((8090,) if component == "gateway" else ())):
            places.append((f"{component}:{port}", pod["status"]["podIP"], port))
    allowed = {"gateway:8080", "gateway:8090"}
    assert len(places) == 21
    cluster.kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=stray("stray", places))
    try:
        cluster.kubectl(
            "wait", "pod/stray", f"--namespace={NAMESPACE}", "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=90s",
        )  # fmt: skip
        found = json.loads(cluster.kubectl("logs", "stray", f"--namespace={NAMESPACE}"))
    finally:
        cluster.kubectl("delete", "pod", "stray", f"--namespace={NAMESPACE}", "--now")
    assert {name for name, how in found.items() if how == "open"} == allowed, found


def test_a_privileged_pod_is_refused(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted:latest"'):
        cluster.kubectl(
            "apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=stray("bad", [], allowPrivilegeEscalation=True)
        )


def test_a_revoked_key_is_refused_in_thirty_seconds(cluster: Cluster) -> None:
    """As the runbook says: the secret is changed, and the gateway's pods are touched so that kubelets look at once."""
    secret = cluster.get("secret", f"{RELEASE}-api-keys")
    entries = yaml.safe_load(base64.b64decode(secret["data"]["api-keys.yaml"]))
    key = "gm_for-a-moment-only-0123456789"

    def write(entries: list[dict[str, str]]) -> None:
        text = base64.b64encode(yaml.safe_dump(entries).encode()).decode()
        patch = json.dumps({"data": {"api-keys.yaml": text}})
        cluster.kubectl("patch", "secret", f"{RELEASE}-api-keys", f"--namespace={NAMESPACE}", "--patch", patch)
        touch(cluster)

    def refused() -> bool:
        told = models(cluster, key)
        return "UNAUTHENTICATED API_KEY_INVALID" in told

    restarts = [pod["metadata"]["uid"] for pod in pods(cluster)]
    write([*entries, {"tenant": "guest", "sha256": hashlib.sha256(key.encode()).hexdigest()}])
    eventually("the new key", 30, lambda: not refused())
    write(entries)
    eventually("the key's end", 30, refused)
    assert restarts == [pod["metadata"]["uid"] for pod in pods(cluster)]


def models(cluster: Cluster, key: str, *options: str) -> str:
    """What `genmesh models` prints to a client outside."""
    environment = cluster.caller() | {"GENMESH_API_KEY": key}
    done = subprocess.run(
        [*cluster.outside(), "genmesh", *options, "models"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def touch(cluster: Cluster) -> None:
    time.sleep(2)  # the kubelets have seen the secret by then
    selector = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=gateway"
    stamp = f"genmesh.dev/looked={time.time_ns()}"
    cluster.kubectl("annotate", "pods", selector, f"--namespace={NAMESPACE}", "--overwrite", stamp)


def test_tls_from_a_secret_is_renewed_without_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    host = cluster.target().partition(":")[0]
    authority, ca = trustme.CA(), tmp_path / "ca"
    authority.cert_pem.write_to_path(ca)

    def write(serial: str) -> None:
        issued = authority.issue_cert(host, common_name=serial)
        issued.private_key_pem.write_to_path(tmp_path / "key")
        (tmp_path / "crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        made = cluster.kubectl(
            "create", "secret", "tls", "gateway-tls", f"--namespace={NAMESPACE}", f"--cert={tmp_path / 'crt'}",
            f"--key={tmp_path / 'key'}", "--dry-run=client", "--output=yaml",
        )  # fmt: skip
        cluster.kubectl("apply", "--filename=-", stdin=made)

    def serial() -> str:
        """The common name of the certificate that the gateway shows."""
        shown = subprocess.run(
            [*cluster.outside(), "openssl", "s_client", "-connect", cluster.target(), "-CAfile", str(ca)],
            input="", capture_output=True, text=True, check=False,
        )  # fmt: skip
        return shown.stdout.partition("subject=")[2].partition("\n")[0].rpartition("CN = ")[2]

    write("first")
    cluster.install(settings=["services.gateway.tlsSecret=gateway-tls"])
    try:
        # The node's port leads to the old gateway as well, until that ends.
        secured = ("--ca", str(ca))
        eventually("TLS", 60, lambda: all("generator" in models(cluster, cluster.key(), *secured) for _ in range(4)))
        assert "generator" not in models(cluster, cluster.key())
        assert serial() == "first"
        before = {pod["metadata"]["uid"] for pod in pods(cluster)}
        write("second")
        touch(cluster)
        eventually("the new certificate", 45, lambda: serial() == "second")
        assert "generator" in models(cluster, cluster.key(), *secured)
        assert before == {pod["metadata"]["uid"] for pod in pods(cluster)}
    finally:
        cluster.install()
        eventually("plain text", 60, lambda: all("generator" in models(cluster, cluster.key()) for _ in range(4)))
