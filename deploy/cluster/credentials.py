"""Certificates and kubeconfigs of a cluster: one authority, one certificate for each who calls or serves."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

# name -> (common name, organization), as Kubernetes' own roles and bindings expect them.
CALLERS = {
    "admin": ("genmesh-admin", "system:masters"),
    "kube-apiserver": ("kube-apiserver", "system:masters"),  # calls the kubelets
    "kube-controller-manager": ("system:kube-controller-manager", "genmesh"),
    "kube-scheduler": ("system:kube-scheduler", "genmesh"),
    "kube-proxy": ("system:kube-proxy", "genmesh"),
    "addons": ("genmesh-addons", "genmesh:addons"),  # addons/roles.yaml says what they may
    "front-proxy": ("front-proxy-client", "genmesh"),
}


class Credentials:
    """A folder with them; made anew where it does not hold those of these nodes."""

    def __init__(self, folder: Path, nodes: dict[str, str], names: list[str]) -> None:
        """``nodes``: node name -> address; ``names``: what the API server is called, names and addresses."""
        self.folder = folder
        wanted = json.dumps([nodes, names, CALLERS])
        if (folder / "for.json").exists() and (folder / "for.json").read_text() == wanted:
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA(organization_name="Genmesh's test cluster")
        authority.cert_pem.write_to_path(folder / "ca.crt")
        self._write("serving", authority.issue_cert(*names))
        for name, (common, organization) in CALLERS.items():
            self._write(name, authority.issue_cert(name, common_name=common, organization_name=organization))
        for node, address in nodes.items():
            self._write(
                node,
                authority.issue_cert(
                    node, address, common_name=f"system:node:{node}", organization_name="system:nodes"
                ),
            )
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.path("service-accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        token = secrets.token_hex(16)
        self.path("token").write_text(token)
        self.path("tokens.csv").write_text(f'{token},genmesh-addons,genmesh-addons,"genmesh:addons"\n')
        (folder / "for.json").write_text(wanted)

    def path(self, name: str) -> Path:
        return self.folder / name

    def _write(self, name: str, issued: trustme.LeafCert) -> None:
        issued.private_key_pem.write_to_path(self.path(f"{name}.key"))
        self.path(f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def kubeconfig(self, name: str, server: str) -> Path:
        """A kubeconfig of one caller or node."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "genmesh", "cluster": {"server": server, "certificate-authority": str(self.path("ca.crt"))}}
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate": str(self.path(f"{name}.crt")),
                        "client-key": str(self.path(f"{name}.key")),
                    },
                }
            ],
            "contexts": [{"name": "genmesh", "context": {"cluster": "genmesh", "user": name}}],
            "current-context": "genmesh",
        }
        path = self.path(f"{name}.kubeconfig")
        path.write_text(json.dumps(config, indent=1))
        return path
