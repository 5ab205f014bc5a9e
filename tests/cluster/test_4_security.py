"""Who may do what: network policies, keys, certificates. tests/smoke has the Pod Security Standard."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from deploy.cluster.cluster import CHART, NAMESPACE, RELEASE, ROOT, Cluster, eventually
from services.gateway.keys import Keys
from tests.cluster.notes import follow_notes
from tests.cluster.reach import ALLOWED, reached
from tests.cluster.workloads import settled, uids


@pytest.fixture(autouse=True)
def at_rest(cluster: Cluster) -> None:
    """No pod is left of an upgrade that an earlier test made."""
    settled(cluster)


@pytest.mark.parametrize("namespace", [NAMESPACE, "default"])
def test_a_stray_pod_reaches_the_gateway_and_nothing_else(cluster: Cluster, namespace: str) -> None:
    """Neither one beside the release's pods nor one of another namespace that looks like its gateway."""
    looks = cluster.get("deployment", f"{RELEASE}-gateway")["spec"]["selector"]["matchLabels"]
    found = reached(cluster, namespace, None if namespace == NAMESPACE else looks)
    assert len(found) == 23
    assert {place for place, outcomes in found.items() if "open" in outcomes} == ALLOWED, found


@pytest.mark.parametrize("touched", [True, False])
def test_a_revoked_key_is_refused_in_thirty_seconds(cluster: Cluster, touched: bool) -> None:
    """The secret is changed, and the gateway's pods touched so that kubelets look at once, as the runbook says; these
    nodes' look often enough by themselves."""
    secret = cluster.get("secret", f"{RELEASE}-api-keys")
    entries = yaml.safe_load(base64.b64decode(secret["data"]["api-keys.yaml"]))
    key = "gm_for-a-moment-only-0123456789"

    def write(entries: list[dict[str, str]]) -> None:
        text = base64.b64encode(yaml.safe_dump(entries).encode()).decode()
        patch = json.dumps({"data": {"api-keys.yaml": text}})
        cluster.kubectl("patch", "secret", f"{RELEASE}-api-keys", f"--namespace={NAMESPACE}", "--patch", patch)
        if touched:
            touch(cluster)

    def refused() -> bool:
        told = models(cluster, key)
        return "UNAUTHENTICATED API_KEY_INVALID" in told

    before = uids(cluster)
    write([*entries, {"tenant": "guest", "sha256": hashlib.sha256(key.encode()).hexdigest()}])
    eventually("the new key", 30, lambda: not refused())
    write(entries)
    eventually("the key's end", 30, refused)
    assert before == uids(cluster)


def test_a_revoked_key_stays_so_over_an_upgrade_and_the_way_back(cluster: Cluster) -> None:
    """The chart made the key; who revokes it by hand must not find it back with another release."""
    name, key = f"{RELEASE}-api-keys", cluster.key()

    def entries() -> list[dict[str, str]]:
        return yaml.safe_load(base64.b64decode(cluster.get("secret", name)["data"]["api-keys.yaml"])) or []

    def write(found: list[dict[str, str]]) -> None:
        text = base64.b64encode(yaml.safe_dump(found).encode()).decode()
        patch = json.dumps({"data": {"api-keys.yaml": text}})
        cluster.kubectl("patch", "secret", name, f"--namespace={NAMESPACE}", "--patch", patch)

    before = entries()
    mine = [entry for entry in before if entry["sha256"] == hashlib.sha256(key.encode()).hexdigest()]
    assert mine
    try:
        write([entry for entry in before if entry not in mine])
        cluster.install(settings=["apiKeys.tenants={default,second}"])
        assert [entry["tenant"] for entry in entries() if entry not in before] == ["second"]
        assert not [entry for entry in entries() if entry in mine]
        assert cluster.key() == key  # kept, and of no use
        cluster.helm("rollback", RELEASE, "--wait", "--timeout=240s")
        assert not [entry for entry in entries() if entry in mine]
        cluster.install()
        assert "second" not in [entry["tenant"] for entry in entries()]
    finally:
        write(before)
        touch(cluster)
        eventually("the key", 60, lambda: "generator" in models(cluster, key))


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


def secrets_named(of: Any) -> Iterator[str]:
    """All secrets that an object refers to."""
    if isinstance(of, dict):
        for key, value in of.items():
            if key == "secretKeyRef":
                yield value["name"]
            elif key == "secret" and isinstance(value, dict):
                yield value["secretName"]
            else:
                yield from secrets_named(value)
    elif isinstance(of, list):
        for value in of:
            yield from secrets_named(value)


def test_the_secrets_of_production_are_made_as_the_runbook_says(cluster: Cluster, tmp_path: Path) -> None:
    """Its commands, in a namespace of their own; the chart asks for these secrets and no others."""
    section = (ROOT / "docs" / "runbook.md").read_text().partition("### In production")[2]
    commands = section.split("```")[1].replace("namespace genmesh", "namespace production")
    issued = trustme.CA().issue_cert("gateway.example.org")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    for name in ("tls.crt", "ca.crt"):
        issued.cert_chain_pems[0].write_to_path(tmp_path / name)
    try:
        subprocess.run(
            [*cluster.outside(), "bash", "-euc", commands], env=cluster.environment(), cwd=tmp_path, check=True
        )
        made = {
            one["metadata"]["name"]: one["data"]
            for one in json.loads(cluster.kubectl("get", "secrets", "--namespace=production", "--output=json"))["items"]
        }
        api_keys = made["genmesh-api-keys"]
        (tmp_path / "seen.yaml").write_bytes(base64.b64decode(api_keys["api-keys.yaml"]))
        key = base64.b64decode(api_keys["test-key"]).decode()
        assert Keys(tmp_path / "seen.yaml").tenant([("x-api-key", key)]) == "acme"
        rendered = cluster.helm("template", RELEASE, str(CHART), f"--values={CHART / 'values-production.yaml'}")
        assert set(secrets_named(list(yaml.safe_load_all(rendered)))) == set(made)
    finally:
        cluster.kubectl("delete", "namespace", "production", "--ignore-not-found")


def test_tls_from_a_secret_is_renewed_without_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    host = cluster.target().partition(":")[0]
    authority, ca = trustme.CA(), tmp_path / "ca"
    authority.cert_pem.write_to_path(ca)

    def write(serial: str) -> None:
        issued = authority.issue_cert(host, f"{RELEASE}.{NAMESPACE}.svc", common_name=serial)
        issued.private_key_pem.write_to_path(tmp_path / "key")
        (tmp_path / "crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        made = cluster.kubectl(
            "create", "secret", "generic", "gateway-tls", "--type=kubernetes.io/tls", f"--namespace={NAMESPACE}",
            f"--from-file=tls.crt={tmp_path / 'crt'}", f"--from-file=tls.key={tmp_path / 'key'}", f"--from-file=ca.crt={ca}",
            "--dry-run=client", "--output=yaml",
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
        # A client that reconnects finds the old one as long as it is there.
        eventually("an end of plain text", 60, lambda: "generator" not in models(cluster, cluster.key()))
        assert serial() == "first"
        settled(cluster)
        before = uids(cluster)
        write("second")
        touch(cluster)
        eventually("the new certificate", 45, lambda: serial() == "second")
        assert "generator" in models(cluster, cluster.key(), *secured)
        assert before == uids(cluster)
        assert "All is well." in follow_notes(cluster, tmp_path)
    finally:
        cluster.install()
        eventually("plain text", 60, lambda: all("generator" in models(cluster, cluster.key()) for _ in range(4)))
