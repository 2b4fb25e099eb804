"""TLS handshakes in memory, before a context is used for connections."""

import secrets
import ssl
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from xksproxy.server.tls_contents import memory_file

_MAXIMUM_ROUNDS: Final = 10
_VERSIONS: Final = (
    (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
    (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
)
_LONGEST_COMMON_NAME: Final = 64
_REFUSED: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_OPENSSL: Final = "check this machine's openssl.cnf and the variable OPENSSL_CONF"
_OTHER_CHECKS: Final = frozenset({9, 10, 20, 21})
"""The results of OpenSSL for dates and for issuers that are missing, about which the checks of the chain say more."""


def handshake_problem(context: ssl.SSLContext) -> str | None:
    """Why clients like KMS cannot connect to a server with this context, or None.

    One client offers TLS 1.2 and 1.3, another TLS 1.2 alone. The context must not ask for a client certificate yet.
    """
    for lowest, highest in _VERSIONS:
        try:
            handshake(context, _client(lowest, highest))
        except ssl.SSLError as error:
            return (
                f"a trial handshake with a client that offers {_offered(highest)} fails: {error.reason or error};"
                " expected an RSA key, or an ECDSA key on the curve P-256 or P-384, a certificate that may be used for"
                " digital signatures, and an openssl.cnf that permits TLS 1.2"
            )
    return None


def mutual_handshake_problem(context: ssl.SSLContext, certificate: bytes, private_key: bytes) -> str | None:
    """Why a context that asks for client certificates lets in who has none, or refuses one that it trusts; or None."""
    for lowest, highest in _VERSIONS:
        stranger, client = _client(lowest, highest), _client(lowest, highest)
        with memory_file(certificate) as certificate_path, memory_file(private_key) as key_path:
            client.load_cert_chain(certificate_path, key_path)
        try:
            handshake(context, stranger)
        except ssl.SSLError as error:
            if error.reason != _REFUSED:
                return f"a trial handshake without a client certificate fails: {error.reason or error}; {_OPENSSL}"
        else:
            return f"a client that offers {_offered(highest)} can connect without a certificate"
        try:
            handshake(context, client)
        except ssl.SSLError as error:
            return (
                f"a trial handshake with a client certificate and {_offered(highest)} fails:"
                f" {error.reason or error}; {_OPENSSL}"
            )
    return None


def self_signed(common_name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """A certificate that is its own CA, valid for an hour, and its private key; both in PEM.

    No other certificate has its subject, by which OpenSSL would take it for the issuer.
    """
    unique = x509.NameAttribute(NameOID.SERIAL_NUMBER, secrets.token_hex(16))
    name = x509.Name([unique, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    certificate = builder.not_valid_after(now + timedelta(hours=1)).sign(key, hashes.SHA256())
    encoding, no_passphrase = serialization.Encoding.PEM, serialization.NoEncryption()
    return certificate.public_bytes(encoding), key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, no_passphrase
    )


def verification_problem(context: ssl.SSLContext, issuer: bytes, host: str) -> str | None:
    """Why a client that trusts a certificate of the chain, in PEM, and expects a host refuses the server; or None.

    Dates do not count.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=issuer.decode())
    try:
        handshake(context, client, host)
    except ssl.SSLCertVerificationError as error:
        return None if error.verify_code in _OTHER_CHECKS else error.verify_message
    return None


def handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext, host: str | None = None) -> None:
    """Make a handshake, for a host if one is given. Raises ssl.SSLError if one side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    waiting = [client, server]
    for _ in range(_MAXIMUM_ROUNDS):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return
    raise ssl.SSLError(0, "the handshake is not complete after 10 rounds")


def _client(lowest: ssl.TLSVersion, highest: ssl.TLSVersion) -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version, client.minimum_version = highest, lowest
    return client


def _offered(highest: ssl.TLSVersion) -> str:
    return "TLS 1.2" if highest is ssl.TLSVersion.TLSv1_2 else "TLS 1.2 and 1.3"
