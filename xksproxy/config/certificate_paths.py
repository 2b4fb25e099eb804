"""Whether a client can build a path from the server's certificate to a root that it trusts."""

import re
import ssl
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from xksproxy.config.pem_files import UNREADABLE
from xksproxy.config.regular_file import FileRefused, read_regular_file


def system_roots() -> tuple[x509.Certificate, ...]:
    """The root certificates of this machine; empty if it has none. SSL_CERT_FILE names another file."""
    paths = ssl.get_default_verify_paths()
    try:
        content = read_regular_file(Path(paths.cafile or paths.openssl_cafile)).content
    except FileRefused:
        return ()
    roots = []
    with warnings.catch_warnings():
        # Some roots are older than the rules of today.
        warnings.simplefilter("ignore")
        for block in re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", content, re.DOTALL):
            with suppress(*UNREADABLE):
                roots.append(x509.load_pem_x509_certificate(block))
    return tuple(roots)


def has_valid_path(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime) -> bool:
    """Whether the first certificate leads to a root, by certificates that are all valid at a time.

    The self-signed certificates of the chain count as roots too. A client leaves out certificates that it does not
    need, such as an expired one for a root that it trusts already.
    """
    anchors = [*roots, *(certificate for certificate in chain if certificate.issuer == certificate.subject)]
    return _reaches(chain[0], chain, anchors, at, frozenset())


def issued_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the key of one certificate signed another."""
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, *UNREADABLE):
        return False
    return True


def _reaches(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    at: datetime,
    passed: frozenset[x509.Certificate],
) -> bool:
    if not _valid(certificate, at) or certificate in passed:
        return False
    if certificate in anchors or any(_valid(anchor, at) and issued_by(certificate, anchor) for anchor in anchors):
        return True
    passed |= {certificate}
    return any(issued_by(certificate, issuer) and _reaches(issuer, chain, anchors, at, passed) for issuer in chain)


def _valid(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc
