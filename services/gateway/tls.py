"""The gateway's certificate, read again when its file changes: a renewal needs no restart."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from services.gateway.settings import Settings

log = logging.getLogger(__name__)


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the server shows to its clients; None for plain text. Ends the process where the files cannot be read."""
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None or key is None:
        return None
    try:
        first = _read(certificate, key)
    except OSError as failure:
        raise SystemExit(f"GENMESH_TLS_CERTIFICATE_FILE, GENMESH_TLS_KEY_FILE: {failure}") from None
    stamp = _stamp(certificate, key)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called at each new connection; None where nothing changed."""
        nonlocal stamp
        try:
            if (now := _stamp(certificate, key)) == stamp:
                return None
            found = _read(certificate, key)
        except OSError as failure:
            log.error("the certificate could not be read again; the one before stays: %s", failure)
            return None
        stamp = now
        log.info("read the certificate again")
        return found

    return grpc.dynamic_ssl_server_credentials(first, renewed)


def _stamp(*files: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_mtime_ns for file in files)


def _read(certificate: Path, key: Path) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())])
