"""TLS for KMS: versions, cipher suites, and the check of clients (requirements R-TLS-*)."""

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from xksproxy.config.certificate_checks import certified_names, warn_from
from xksproxy.config.errors import ConfigError
from xksproxy.config.findings import Finding
from xksproxy.config.model import Tls
from xksproxy.config.pem_files import read_certificates
from xksproxy.config.regular_file import FileRefused
from xksproxy.server.http.service import Client, ConnectionRefused
from xksproxy.server.trial_handshake import (
    handshake_problem,
    mutual_handshake_problem,
    self_signed,
    verification_problem,
)

_TLS_1_2_SUITES: Final = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
_NEGOTIABLE: Final = frozenset(
    {*_TLS_1_2_SUITES.split(":"), "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"},
)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_*-]{1,63}(\.[a-z0-9_*-]{1,63})*")
"""What a client can ask for. A certificate may contain any other text."""
_OPENSSL_CONFIGURATION: Final = "check this machine's openssl.cnf and the variable OPENSSL_CONF"


_REASONS: Final = {
    "CA_MD_TOO_WEAK": "a certificate is signed with a hash that is too weak, such as SHA-1 (CA_MD_TOO_WEAK)",
    "INVALID_CERTIFICATE": "an extension of a certificate is damaged (INVALID_CERTIFICATE)",
}


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """The server certificate's common name and dates. Times are seconds since 1970."""

    name: str
    expires: float
    warn_from: float
    """The time from which a warning says that it expires soon."""


def certificate_info(tls: Tls) -> CertificateInfo:
    """Read name and dates of the server certificate.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        certificate = read_certificates(Path(tls.certificate))[0]
    except FileRefused as error:
        raise ConfigError([f"server.tls.certificate: {error}"]) from None
    names = [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    end, warning = certificate.not_valid_after_utc, warn_from(certificate)
    return CertificateInfo(names[0] if names else "", end.timestamp(), warning.timestamp())


def build_context(tls: Tls) -> ssl.SSLContext:
    """Build a context for TLS 1.2 and 1.3, with client certificates if ``client_ca`` is set (R-TLS-1, R-TLS-6).

    Raises:
        ConfigError: certificate, key or CA cannot be used, or a trial handshake fails.
    """
    context = _own_context(tls)
    try:
        problem = handshake_problem(context)
    except ssl.SSLError as error:
        problem = f"OpenSSL cannot be used: {_reason(error)}; {_OPENSSL_CONFIGURATION}"
    if problem is None and tls.client_ca is not None:
        _ask_for_certificates(context, tls.client_ca)
        problem = _mutual_problem(tls, tls.client_ca)
    if problem is not None:
        raise ConfigError([f"server.tls: {problem}"])
    return context


def verification_findings(tls: Tls) -> Iterator[Finding]:
    """What a client that verifies the server's certificate says of it, and of the chain, beside dates and issuers.

    Raises:
        ConfigError: the certificate or its key does not load.
    """
    name = next(filter(_HOST_NAME.fullmatch, certified_names(tls)), None)
    if name is None:
        return
    issuer = read_certificates(Path(tls.certificate))[-1].public_bytes(serialization.Encoding.PEM)
    if problem := verification_problem(_own_context(tls), issuer, name.replace("*.", "a.", 1)):
        yield Finding.problem(f"server.tls.certificate: clients refuse it or its chain: {problem}")


def _own_context(tls: Tls) -> ssl.SSLContext:
    """A context with the server's certificate."""
    try:
        context = _empty_context()
    except ssl.SSLError as error:
        raise ConfigError([f"server.tls: OpenSSL cannot be used: {_reason(error)}; {_OPENSSL_CONFIGURATION}"]) from None
    try:
        # A password callback, so that an encrypted key is an error and not a prompt.
        context.load_cert_chain(tls.certificate, tls.private_key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        problem = (
            f"server.tls: {tls.certificate} with {tls.private_key} does not load: {_reason(error)};"
            " expected certificates and a key that this machine's OpenSSL accepts"
        )
        raise ConfigError([problem]) from None
    return context


def _ask_for_certificates(context: ssl.SSLContext, client_ca: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError([f"server.tls.client_ca: {_reason(error)}"]) from None


def _mutual_problem(tls: Tls, client_ca: str) -> str | None:
    """Try client certificates with a context that also trusts one that is made for the trial."""
    problem = None
    # It is not known which of the two a client has. An RSA key takes long to make, and is hardly ever needed.
    for make_key in (partial(ec.generate_private_key, ec.SECP256R1()), partial(rsa.generate_private_key, 65537, 2048)):
        certificate, private_key = self_signed(next(iter(tls.client_names), ""), make_key())
        trial = _own_context(tls)
        _ask_for_certificates(trial, client_ca)
        trial.load_verify_locations(cadata=certificate.decode())
        if (problem := mutual_handshake_problem(trial, certificate, private_key)) is None:
            return None
    return problem


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_SUITES)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_rules(tls: Tls) -> tuple[object, ...]:
    """What decides which clients are admitted: the names, and the content of the CA file.

    Raises:
        ConfigError: the CA cannot be read.
    """
    try:
        return tls.client_names, None if tls.client_ca is None else Path(tls.client_ca).read_bytes()
    except OSError as error:
        raise ConfigError([f"server.tls.client_ca: {_reason(error)}"]) from None


def admit(tls: Tls, connection: Any, now: float) -> Client:
    """Return the client of a connection whose handshake is complete.

    The ssl module lets a server decide on neither the client's name nor the TLS 1.3 suites during the handshake. A
    resumed session shows the certificate of the handshake that began it, which may have expired since. ``connection``
    is the SSLObject, ``now`` is in seconds since 1970.

    Raises:
        ConnectionRefused: the connection must be dropped before a byte of a request is read.
    """
    suite = connection.cipher()[0]
    if suite not in _NEGOTIABLE:
        raise ConnectionRefused(f"the cipher suite {suite} is not one of the XKS specification")
    if tls.client_ca is None:
        return Client()
    certificate = connection.getpeercert() or {}
    names = _common_names(certificate)
    if len(names) != 1 or names[0] not in tls.client_names:
        raise ConnectionRefused(f"the client certificate's common name is {', '.join(names) or 'missing'}")
    expires = ssl.cert_time_to_seconds(certificate["notAfter"])
    if expires <= now:
        raise ConnectionRefused(f"the client certificate expired on {certificate['notAfter']}")
    return Client(names[0], expires)


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    subject = certificate.get("subject", ())
    return [value for parts in subject for kind, value in parts if kind == "commonName"]


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason, error.reason) or "not in PEM format, or the key does not fit the certificate"
    return getattr(error, "strerror", None) or str(error)
