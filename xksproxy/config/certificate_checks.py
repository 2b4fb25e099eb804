"""Checks of the server's certificate, its chain and its key, as KMS requires them (R-TLS-4, R-TLS-5)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xksproxy.config.certificate_paths import has_valid_path, issued_by, system_roots
from xksproxy.config.findings import Finding
from xksproxy.config.model import Tls
from xksproxy.config.pem_files import UNREADABLE, read_certificates, read_private_key
from xksproxy.config.regular_file import FileRefused

_EXPIRY_WARNING: Final = timedelta(days=14)
_LIFETIME_DIVISOR: Final = 4
"""A certificate expires soon if less than a quarter of its lifetime, and less than 14 days, are left."""
_LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1)
"""A certificate that does not expire ends in the last second of the year 9999 (RFC 5280, 4.1.2.5)."""
_RSA_BITS: Final = 2048
_DEVELOPMENT: Final = "localhost"
_ENDPOINT_NAME: Final = re.compile(
    r"(?:\*\.[a-z0-9-]{1,63}\.|[a-z0-9-]{1,63}\.)(?:[a-z0-9-]{1,63}\.)*[a-z][a-z0-9-]{0,62}"
)
_SERVER_PURPOSES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


def certificate_problems(tls: Tls) -> Iterator[str]:
    """Why the certificate and its key cannot be loaded. Each problem starts with the path of the configuration key."""
    chain, public_key = [], None
    try:
        chain = read_certificates(Path(tls.certificate))
    except FileRefused as error:
        yield f"server.tls.certificate: {error}"
    try:
        public_key = _encoded(read_private_key(Path(tls.private_key)).public_key())
    except FileRefused as error:
        yield f"server.tls.private_key: {error}"
    if tls.client_ca is not None:
        try:
            read_certificates(Path(tls.client_ca))
        except FileRefused as error:
            yield f"server.tls.client_ca: {error}"
    if not chain:
        return
    if size := _too_short(chain[0]):
        yield f"server.tls.certificate: {tls.certificate} has an RSA key of {size} bits; expected at least {_RSA_BITS}"
        return
    keys = [_public_key(each) for each in chain]
    if keys[0] is None:
        yield f"server.tls.certificate: the key in {tls.certificate} is damaged, or of a kind that cannot be read"
        return
    if public_key is None or public_key == keys[0]:
        return
    position = next((index for index, key in enumerate(keys) if key == public_key), None)
    if position is None:
        yield f"server.tls.private_key: {tls.private_key} is not the key of the certificate {name_of(chain[0])}"
    else:
        yield (
            f"server.tls.certificate: the key belongs to certificate number {position + 1},"
            f" {name_of(chain[position])}; expected the server's certificate first"
        )


def certificate_findings(tls: Tls, now: datetime) -> Iterator[Finding]:
    """What KMS refuses, or will soon refuse, in a certificate that can be loaded."""
    at = "server.tls.certificate"
    try:
        chain = read_certificates(Path(tls.certificate))
    except FileRefused:
        return
    try:
        own_names, purposes = dns_names(chain[0]), _purposes(chain[0])
    except UNREADABLE:
        yield Finding.warning(
            f"{at}: {name_of(chain[0])} has extensions that cannot be read; expected a certificate as the CA issued it"
        )
        return
    if _public_key(chain[0]) is None:  # which certificate_problems reports
        return
    yield from _date_findings(at, chain[0], now)
    yield from _path_findings(at, chain, now)
    yield from _kind_findings(at, chain[0])
    for number, (issued, issuer) in enumerate(pairwise(chain), 2):
        if not issued_by(issued, issuer):
            yield Finding.problem(
                f"{at}: certificate number {number}, {name_of(issuer)}, did not issue number {number - 1},"
                f" {name_of(issued)}; expected the certificate of the issuer after each certificate"
            )
    if not own_names:
        yield Finding.problem(
            f"{at}: {name_of(chain[0])} has no DNS name; expected the domain name of the endpoint, which KMS verifies"
        )
    elif not any(name == _DEVELOPMENT or _ENDPOINT_NAME.fullmatch(name) for name in own_names):
        yield Finding.warning(
            f"{at}: no endpoint of KMS can have a name like {', '.join(own_names)}; expected a domain name, or a"
            " wildcard for one label of it, such as *.example.com"
        )
    if purposes and not _SERVER_PURPOSES & purposes:
        yield Finding.problem(
            f"{at}: {name_of(chain[0])} is not for servers; expected serverAuth in its extended key usage"
        )
    if chain[0].issuer == chain[0].subject:
        yield Finding.warning(f"{at}: {name_of(chain[0])} is self-signed; KMS trusts public CAs only")


def certified_names(tls: Tls) -> tuple[str, ...]:
    """The DNS names of the server's certificate, in lower case. Empty if the certificate cannot be read."""
    try:
        return dns_names(read_certificates(Path(tls.certificate))[0])
    except (FileRefused, *UNREADABLE):
        return ()


def covers(names: Sequence[str], host: str) -> bool:
    """Whether one of a certificate's names matches the host. A wildcard matches one label (RFC 6125)."""
    _, _, parent = host.partition(".")
    return host in names or f"*.{parent}" in names


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names in subjectAltName, in lower case (one of UNREADABLE if they cannot be read)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def warn_from(certificate: x509.Certificate) -> datetime:
    """The time from which a certificate expires soon."""
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    return end - min(_EXPIRY_WARNING, (end - start) / _LIFETIME_DIVISOR)


def _date_findings(at: str, certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if end < now:
        yield Finding.problem(f"{at}: {name_of(certificate)} expired {day_of(certificate)}")
    elif start > now:
        yield Finding.problem(f"{at}: {name_of(certificate)} is not valid before {start:%Y-%m-%d %H:%M} UTC")
    elif now > warn_from(certificate):
        yield Finding.warning(f"{at}: {name_of(certificate)} expires soon, {day_of(certificate)}")


def _path_findings(at: str, chain: Sequence[x509.Certificate], now: datetime) -> Iterator[Finding]:
    """What is wrong with the certificates after the server's, if a client needs them."""
    roots = system_roots()
    for certificate in chain[1:]:
        after = max(now, min(certificate.not_valid_after_utc, _LATEST) + timedelta(seconds=1))
        others = [other for other in chain if other != certificate]
        if not has_valid_path(others, roots, now) or (after > now and not has_valid_path(others, roots, after)):
            yield from _date_findings(at, certificate, now)
    leaf = chain[0]
    if len(chain) == 1 and leaf.issuer != leaf.subject and not any(issued_by(leaf, root) for root in roots):
        yield Finding.warning(
            f"{at}: no certificate follows {name_of(leaf)}; expected the intermediate certificate of its issuer, which"
            " KMS does not fetch by itself (use the CA's full chain)"
        )
    elif len(chain) > 1 and roots and not _leads_to_a_root(chain, roots):
        yield Finding.warning(
            f"{at}: {name_of(chain[-1])}, the last certificate of the file, was issued by"
            f" {_issuer_name(chain[-1])}, which is neither in the file nor a root that this machine trusts; expected"
            " the CA's full chain, of a public CA"
        )


def _leads_to_a_root(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> bool:
    """Whether a certificate of the chain is a root, or was issued by one; dates do not count."""
    return any(each.issuer == each.subject or any(issued_by(each, root) for root in roots) for each in chain)


def _kind_findings(at: str, leaf: x509.Certificate) -> Iterator[Finding]:
    """Keys that the suites of the API cannot use, and a promise that the proxy does not keep."""
    key = leaf.public_key()
    fits = isinstance(key, rsa.RSAPublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    )
    if not fits:
        yield Finding.problem(
            f"{at}: {name_of(leaf)} has a key that KMS cannot use; expected RSA, or ECDSA on P-256 or P-384 (R-TLS-2)"
        )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if not usage.digital_signature:
            yield Finding.problem(
                f"{at}: the key usage of {name_of(leaf)} lacks digitalSignature, which the cipher suites of the"
                " API need"
            )
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return
    if x509.TLSFeatureType.status_request in features:
        yield Finding.warning(
            f"{at}: {name_of(leaf)} demands a stapled OCSP response (must-staple), which the proxy does not send;"
            " clients that insist refuse it, so have it issued without that"
        )


def _purposes(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """The extended key usages; empty if the certificate does not restrict its use."""
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _public_key(certificate: x509.Certificate) -> bytes | None:
    """The encoded key of a certificate; None if it cannot be read."""
    try:
        return _encoded(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _too_short(certificate: x509.Certificate) -> int:
    """The size of an RSA key that OpenSSL and KMS refuse, in bits; 0 for all others."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return 0
    return key.key_size if isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS else 0


def _encoded(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def name_of(certificate: x509.Certificate) -> str:
    """The common name, or else a DNS name. Characters that are not printable ASCII are replaced."""
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names:
        with suppress(*UNREADABLE):
            names = [*dns_names(certificate)]
    return re.sub(r"[^ -~]", "?", names[0] if names else "without a name")


def _issuer_name(certificate: x509.Certificate) -> str:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return re.sub(r"[^ -~]", "?", str(names[0].value) if names else certificate.issuer.rfc4514_string())


def day_of(certificate: x509.Certificate) -> str:
    """When it expires."""
    return f"on {certificate.not_valid_after_utc.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
