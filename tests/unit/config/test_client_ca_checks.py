"""CAs for client certificates: what is reported is what OpenSSL refuses in a handshake."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xksproxy.config.client_ca_checks import client_ca_findings
from xksproxy.config.model import Tls
from xksproxy.server.tls import build_context
from xksproxy.server.trial_handshake import handshake

_KMS = "cks.kms.eu-west-1.amazonaws.com"
_CA = x509.BasicConstraints(ca=True, path_length=None)
_NOBODY = x509.BasicConstraints(ca=False, path_length=None)


@dataclass
class _Authority:
    """A certificate and its key; without an issuer, it is self-signed."""

    name: str
    extensions: Sequence[x509.ExtensionType] = (_CA,)
    issuer: "_Authority | None" = None
    begins: float = -1
    """Days from now."""
    ends: float = 1
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @cached_property
    def certificate(self) -> x509.Certificate:
        issuer, now = self.issuer or self, datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(_name(self.name)).issuer_name(_name(issuer.name))
        builder = builder.public_key(self.key.public_key()).serial_number(1)
        builder = builder.not_valid_before(now + timedelta(self.begins)).not_valid_after(now + timedelta(self.ends))
        for extension in self.extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(issuer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write_key(self, path: Path) -> Path:
        path.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.chmod(0o600)
        return path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*names: str) -> x509.KeyUsage:
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    flags = dict.fromkeys((*known, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(**(flags | dict.fromkeys(names, True)))


def _constraints(permitted: str | None = None, excluded: str | None = None) -> x509.NameConstraints:
    return x509.NameConstraints(
        *(None if name is None else [x509.DNSName(name)] for name in (permitted, excluded)),
    )


_ROOT = _Authority("Root")
_EXPIRED = _Authority("Root", begins=-2, ends=-1)
_SHORT = _Authority("Root", extensions=(x509.BasicConstraints(ca=True, path_length=0),))
_CLIENT_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
_SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def _below(root: _Authority) -> _Authority:
    return _Authority("Intermediate", issuer=root)


def _with_root(root: _Authority) -> tuple[_Authority, _Authority]:
    return _below(root), root


_CASES: dict[str, tuple[tuple[_Authority, ...], str]] = {
    "root": ((_ROOT,), ""),
    "intermediate and root": (_with_root(_ROOT), ""),
    "for certificates and clients": ((_Authority("Root", (_CA, _key_usage("key_cert_sign"), _CLIENT_ONLY)),), ""),
    "permitted name": ((_Authority("Root", (_CA, _constraints("amazonaws.com"))),), ""),
    "intermediate alone": ((_below(_ROOT),), "is not a root, and its issuer is not in the file"),
    "expired": ((_EXPIRED,), "expired on"),
    "not yet valid": ((_Authority("Root", begins=1, ends=2),), "is not valid before"),
    "below an expired root": (_with_root(_EXPIRED), "cannot be used: Root, above it, expired on"),
    "below a root for leaves": (_with_root(_SHORT), "Root, above it, permits 0 CAs below it, and 1 of the file are"),
    "not for certificates": ((_Authority("Root", (_CA, _key_usage("digital_signature"))),), "lacks keyCertSign"),
    "not for clients": ((_Authority("Root", (_CA, _SERVER_ONLY)),), "lacks clientAuth"),
    "another name": (
        (_Authority("Root", (_CA, _constraints("example.com"))),),
        f"certificates for {_KMS}, by its name",
    ),
    "excluded name": ((_Authority("Root", (_CA, _constraints(None, "amazonaws.com"))),), "by its name constraints"),
    "no CA": ((_Authority("Leaf", (_NOBODY,), issuer=_ROOT), _ROOT), "is not a CA"),
}


def _tls(directory: Path, authorities: Sequence[_Authority]) -> Tls:
    server = _Authority("localhost", extensions=())
    (directory / "server.pem").write_bytes(server.pem)
    (directory / "ca.pem").write_bytes(b"".join(authority.pem for authority in authorities))
    return Tls(
        certificate=str(directory / "server.pem"),
        private_key=str(server.write_key(directory / "server-key.pem")),
        client_ca=str(directory / "ca.pem"),
        client_names=(_KMS,),
    )


def _connects(tls: Tls, client: _Authority, directory: Path) -> bool:
    (directory / "client.pem").write_bytes(client.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(directory / "client.pem", client.write_key(directory / "client-key.pem"))
    try:
        handshake(build_context(tls), context)
    except ssl.SSLError:
        return False
    return True


@pytest.mark.parametrize(("authorities", "reason"), _CASES.values(), ids=_CASES)
def test_a_ca_is_reported_if_openssl_refuses_the_clients_that_it_certifies(
    tmp_path: Path, authorities: tuple[_Authority, ...], reason: str
) -> None:
    tls = _tls(tmp_path, authorities)

    texts = [finding.text for finding in client_ca_findings(tls, datetime.now(UTC))]

    assert _connects(tls, _Authority(_KMS, (_NOBODY,), issuer=authorities[0]), tmp_path) is not bool(reason)
    assert bool(texts) is bool(reason)
    assert not reason or (texts[0].startswith("server.tls.client_ca: ") and reason in texts[0])


def test_it_is_a_problem_if_no_ca_of_the_file_can_be_used(tmp_path: Path) -> None:
    one, all_of_them = (_EXPIRED, _Authority("Other")), (_EXPIRED, _below(_EXPIRED))

    def severities(authorities: tuple[_Authority, ...]) -> list[bool]:
        return [finding.serious for finding in client_ca_findings(_tls(tmp_path, authorities), datetime.now(UTC))]

    assert severities(one) == [False]
    assert severities(all_of_them) == [False, False, True]


def test_a_self_signed_certificate_of_a_client_is_valid_for_that_client(tmp_path: Path) -> None:
    client = _Authority(_KMS, (_NOBODY,))
    tls = _tls(tmp_path, (client,))

    assert list(client_ca_findings(tls, datetime.now(UTC))) == []
    assert _connects(tls, client, tmp_path)


def test_a_ca_with_an_extension_twice_is_named(tmp_path: Path) -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    der = _Authority("Root", (_CA, usage)).certificate.public_bytes(serialization.Encoding.DER)
    path = tmp_path / "ca.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(der.replace(b"\x06\x03\x55\x1d\x25", b"\x06\x03\x55\x1d\x13")))
    tls = Tls(certificate="", private_key="", client_ca=str(path), client_names=(_KMS,))

    texts = [finding.text for finding in client_ca_findings(tls, datetime.now(UTC))]

    assert "Root has extensions that cannot be read" in texts[0]
