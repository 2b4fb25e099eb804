"""Checks of the CAs for client certificates: whether a client that they certify can connect (R-TLS-7, R-TLS-8)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from xksproxy.config.certificate_checks import day_of, name_of
from xksproxy.config.certificate_paths import issued_by
from xksproxy.config.findings import Finding
from xksproxy.config.model import Tls
from xksproxy.config.pem_files import UNREADABLE, read_certificates
from xksproxy.config.regular_file import FileRefused

_AT = "server.tls.client_ca"
_CLIENT_PURPOSES = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


def client_ca_findings(tls: Tls, now: datetime) -> Iterator[Finding]:
    """What OpenSSL does not accept in CAs for client certificates: a problem if no CA of the file is left."""
    if tls.client_ca is None:
        return
    try:
        authorities = read_certificates(Path(tls.client_ca))
    except FileRefused:
        return
    reasons = {authority: _reason(authority, authorities, tls.client_names, now) for authority in authorities}
    for authority, reason in reasons.items():
        if reason is not None:
            yield Finding.warning(f"{_AT}: {name_of(authority)} {reason}")
    if all(reasons.values()):
        yield Finding.problem(
            f"{_AT}: no client can connect, because no CA of {tls.client_ca} can be used; expected the root of the CA"
            " that issues the client certificates of KMS, and what is between them"
        )


def _reason(
    authority: x509.Certificate, others: Sequence[x509.Certificate], names: Sequence[str], now: datetime
) -> str | None:
    """Why a certificate of the file, or one above it, does not make client certificates valid; None if it does."""
    below = 0
    while True:
        if (reason := _own_reason(authority, below, names, now)) is not None:
            return reason if below == 0 else f"cannot be used: {name_of(authority)}, above it, {reason}"
        if authority.issuer == authority.subject:
            return None
        issuer = next((other for other in others if other != authority and issued_by(authority, other)), None)
        if issuer is None or below > len(others):
            return (
                "is not a root, and its issuer is not in the file; without the root, no client certificate is valid, so"
                " add it"
            )
        authority, below = issuer, below + 1


def _own_reason(authority: x509.Certificate, below: int, names: Sequence[str], now: datetime) -> str | None:
    """The same for one certificate. ``below`` is the number of CAs between it and the client certificate.

    A self-signed certificate that is no CA is valid for the one client that has it.
    """
    if authority.not_valid_after_utc < now:
        return f"expired {day_of(authority)}"
    if authority.not_valid_before_utc > now:
        return f"is not valid before {authority.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    try:
        extensions = authority.extensions
    except UNREADABLE:
        return "has extensions that cannot be read"
    if not _may_issue(authority) and not (authority.issuer == authority.subject and below == 0):
        return "is not a CA, so it issues no client certificate; expected the CA that issues those of KMS"
    for extension in extensions:
        if reason := _extension_reason(extension.value, below, names):
            return reason
    return None


def _extension_reason(value: x509.ExtensionType, below: int, names: Sequence[str]) -> str | None:
    match value:
        case x509.BasicConstraints() if value.path_length is not None and value.path_length < below:
            return f"permits {value.path_length} CAs below it, and {below} of the file are"
        case x509.KeyUsage() if not value.key_cert_sign:
            return "must not issue certificates: its key usage lacks keyCertSign"
        case x509.ExtendedKeyUsage() if not _CLIENT_PURPOSES.intersection(value):
            return "must not issue client certificates: its extended key usage lacks clientAuth"
        case x509.NameConstraints() if outside := [name for name in names if not _permits(value, name)]:
            return f"must not issue certificates for {', '.join(outside)}, by its name constraints"
    return None


def _permits(constraints: x509.NameConstraints, name: str) -> bool:
    """Whether constraints of DNS names permit a common name, to which OpenSSL applies them too."""
    permitted = [tree.value for tree in constraints.permitted_subtrees or () if isinstance(tree, x509.DNSName)]
    excluded = [tree.value for tree in constraints.excluded_subtrees or () if isinstance(tree, x509.DNSName)]

    def is_below(tree: str) -> bool:
        return f".{name}".lower().endswith(f".{tree.lstrip('.')}".lower())

    return not any(map(is_below, excluded)) and (not permitted or any(map(is_below, permitted)))


def _may_issue(certificate: x509.Certificate) -> bool:
    """Whether a certificate is one of a CA; those of version 1 do not say."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.version is x509.Version.v1 or certificate.issuer == certificate.subject
