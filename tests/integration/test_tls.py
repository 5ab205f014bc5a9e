"""TLS at the gateway, and its renewal without a restart. A gateway of its own; nothing stands behind it."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from genmesh import Client
from genmesh.errors import GenmeshError, Unauthenticated
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.ports import Ports
from tests.waiting import LIMIT_SECONDS, until


def issue(authority: trustme.CA, folder: Path) -> None:
    found = authority.issue_cert("localhost")
    # The key first: a gateway that looks in between reads the pair again at the next connection.
    found.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in found.cert_chain_pems))


def environment(folder: Path, ports: Ports) -> dict[str, str]:
    (folder / "keys.yaml").write_text("[]")
    urls = {
        f"GENMESH_{n}_URL": "127.0.0.1:9"
        for n in ("TOKENIZATION", "EMBEDDING", "VECTOR_SEARCH", "GENERATION", "DIFFUSION", "RAG")
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GENMESH_")}
    return inherited | urls | {
        "GENMESH_PORT": str(ports["gateway"]), "GENMESH_METRICS_PORT": str(ports["metrics_gateway"]), "GENMESH_IDENTITY_SECRET": "s" * 32,
        "GENMESH_API_KEYS_FILE": str(folder / "keys.yaml"), "GENMESH_TLS_CERTIFICATE_FILE": str(folder / "tls.crt"),
        "GENMESH_TLS_KEY_FILE": str(folder / "tls.key"),
    }  # fmt: skip


COMMAND = [sys.executable, "-m", "services.gateway"]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, trustme.CA]]:
    folder, authority, ports = tmp_path_factory.mktemp("tls"), trustme.CA(), Ports.free()
    port = ports["gateway"]
    issue(authority, folder)
    process = subprocess.Popen(COMMAND, env=environment(folder, ports))

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    yield port, folder, authority
    process.terminate()
    process.wait(LIMIT_SECONDS)


def trusting(authority: trustme.CA) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


def serial(port: int, authority: trustme.CA) -> str:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        found = tls.getpeercert()
        assert found
        return str(found["serialNumber"])


def test_a_call_over_tls(secured) -> None:
    port, _, authority = secured
    with (
        Client(f"localhost:{port}", api_key="gm_none", credentials=trusting(authority)) as client,
        pytest.raises(Unauthenticated),
    ):
        client.tokenization.Count({"texts": ["x"]}, timeout=60)


def test_plain_text_and_strangers_are_refused(secured) -> None:
    port, _, _ = secured
    for channel in (
        grpc.insecure_channel(f"localhost:{port}"),
        grpc.secure_channel(f"localhost:{port}", trusting(trustme.CA())),
    ):
        with channel, pytest.raises(grpc.RpcError) as failure:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_renewed_certificate_is_shown_without_a_restart_and_old_connections_stay(secured) -> None:
    port, folder, authority = secured
    with grpc.secure_channel(f"localhost:{port}", trusting(authority)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        before = serial(port, authority)
        issue(authority, folder)
        until(lambda: serial(port, authority) != before)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=60)


def test_a_broken_renewal_keeps_the_certificate_before(secured) -> None:
    port, folder, authority = secured
    before = serial(port, authority)
    (folder / "tls.crt").unlink()
    assert serial(port, authority) == before
    issue(authority, folder)
    with (
        Client(f"localhost:{port}", api_key="gm_none", credentials=trusting(authority)) as client,
        pytest.raises(GenmeshError),
    ):
        client.tokenization.Count({"texts": ["x"]}, timeout=60)


def test_half_a_pair_is_refused_at_boot(tmp_path: Path) -> None:
    given = environment(tmp_path, Ports.free())
    del given["GENMESH_TLS_KEY_FILE"]
    ran = subprocess.run(COMMAND, env=given, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 1
    assert "tls_certificate_file and tls_key_file belong together" in ran.stderr
