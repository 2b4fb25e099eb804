"""TLS contexts with client certificates that a proxy with mutual TLS must refuse."""

import ssl
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from xksproxy.client.target import Target


def self_signed(target: Target) -> ssl.SSLContext:
    """A context with a self-signed certificate that has the subject of the target's own certificate.

    Raises:
        OSError, ValueError: the target's own certificate cannot be read.
    """
    if target.client_certificate is None:
        raise ValueError("the target has no client certificate")
    original = x509.load_pem_x509_certificate(target.client_certificate.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(original.subject)
        .issuer_name(original.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # made with mode 0600
        file.write(pem)
        file.flush()
        return replace(target, client_certificate=Path(file.name), client_key=None).context()


def without_certificate(target: Target) -> ssl.SSLContext:
    """A client's context without any certificate."""
    return replace(target, client_certificate=None, client_key=None).context()


def with_certificate(target: Target, certificate: Path, key: Path | None) -> ssl.SSLContext:
    """A client's context with another certificate."""
    return replace(target, client_certificate=certificate, client_key=key).context()
