"""A TLS context is tried before it is used."""

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Tls
from xksproxy.server.tls import build_context, verification_findings
from xksproxy.server.tls_contents import TlsContents, memory_file
from xksproxy.server.trial_handshake import mutual_handshake_problem, self_signed

_TRY = """
import sys
from pathlib import Path
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Tls
from xksproxy.server.tls import build_context
try:
    mutual = {"client_ca": sys.argv[1], "client_names": ("kms",)} if sys.argv[3:] else {}
    build_context(Tls(certificate=sys.argv[1], private_key=sys.argv[2], **mutual))
except ConfigError as error:
    sys.exit(str(error))
"""


def _write(
    directory: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType
) -> Tls:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    certificate, private_key = directory / "server.pem", directory / "key.pem"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private_key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(certificate=str(certificate), private_key=str(private_key))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_keys_of_public_certificates_pass_the_trial_handshake(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    tls = _write(tmp_path, key)
    build_context(tls)

    mutual = Tls(
        certificate=tls.certificate, private_key=tls.private_key, client_ca=tls.certificate, client_names=("kms",)
    )
    build_context(mutual)


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP256R1()])
def test_a_key_with_which_no_handshake_succeeds_is_refused(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    with pytest.raises(ConfigError, match=r"server\.tls: a trial handshake .* fails: .*P-256 or P-384"):
        build_context(_write(tmp_path, ec.generate_private_key(curve)))


_SECTIONS = {
    "MaxProtocol": (
        "openssl_conf = o\n[o]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\nMaxProtocol = TLSv1.1\n",
        "a trial handshake",
    ),
    "no default provider": (
        "openssl_conf = o\n[o]\nproviders = p\n[p]\nbase = b\n[b]\nactivate = 1\n",
        "OpenSSL cannot be used",
    ),
}


@pytest.mark.parametrize(("configuration", "reason"), _SECTIONS.values(), ids=_SECTIONS)
def test_a_surprising_openssl_cnf_gives_a_message(tmp_path: Path, configuration: str, reason: str) -> None:
    tls = _write(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "openssl.cnf").write_text(configuration)

    done = subprocess.run(
        [sys.executable, "-c", _TRY, tls.certificate, tls.private_key],
        env={**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"server.tls: {reason}")
    assert "openssl.cnf" in done.stderr


@pytest.mark.parametrize(
    ("algorithms", "problem"),
    [
        ("RSA-PSS+SHA256", None),  # clients with an RSA key can connect
        ("RSA+SHA512", "a trial handshake without a client certificate fails: "),
        ("ed448", "a trial handshake with a client certificate and TLS 1.2 and 1.3 fails: "),
    ],
)
def test_client_certificates_are_tried_too(tmp_path: Path, algorithms: str, problem: str | None) -> None:
    tls = _write(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    cnf = "openssl_conf = o\n[o]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\n"
    (tmp_path / "openssl.cnf").write_text(f"{cnf}ClientSignatureAlgorithms = {algorithms}\n")

    def run(*more: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, tls.certificate, tls.private_key, *more],
            env={**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert run() == (0, "")
    code, said = run("mutual")
    assert code == (0 if problem is None else 1), said
    assert problem is None or said.startswith(f"server.tls: {problem}")
    assert problem is None or "openssl.cnf" in said


def test_a_context_that_lets_in_who_has_no_certificate_is_refused() -> None:
    certificate, private_key = self_signed("kms", ec.generate_private_key(ec.SECP256R1()))
    with memory_file(certificate) as certificate_path, memory_file(private_key) as key_path:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate_path, key_path)
    context.load_verify_locations(cadata=certificate.decode())

    def problem(mode: ssl.VerifyMode) -> str | None:
        context.verify_mode = mode
        return mutual_handshake_problem(context, certificate, private_key)

    assert problem(ssl.CERT_REQUIRED) is None
    assert problem(ssl.CERT_OPTIONAL) == "a client that offers TLS 1.2 and 1.3 can connect without a certificate"


def _chain(directory: Path, *extensions: x509.ExtensionType, host: str = "xks.example.com") -> Tls:
    """A certificate and its intermediate, which has these extensions."""
    key, issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    tls = _write(directory, key)
    pem = b""
    for name, issuer, public, own in (
        (host, "Intermediate", key.public_key(), (x509.SubjectAlternativeName([x509.DNSName(host)]),)),
        ("Intermediate", "Root", issuer_key.public_key(), extensions),
    ):
        subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(public)
        builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(1))
        for extension in own:
            builder = builder.add_extension(extension, critical=True)
        pem += builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    Path(tls.certificate).write_bytes(pem)
    return tls


_CA = x509.BasicConstraints(ca=True, path_length=None)


@pytest.mark.parametrize(
    ("extensions", "host", "reason"),
    [
        ((_CA,), "xks.example.com", None),
        ((_CA,), "*.example.com", None),
        ((), "xks.example.com", "invalid CA certificate"),
        ((x509.BasicConstraints(ca=False, path_length=None),), "xks.example.com", "invalid CA certificate"),
        ((_CA, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])), "xks.example.com", "purpose"),
        ((_CA, x509.NameConstraints([x509.DNSName("example.org")], None)), "xks.example.com", "subtree violation"),
        ((_CA,), "*.*.example.com", "Hostname mismatch"),
    ],
)
def test_the_chain_is_verified_as_a_client_does(
    tmp_path: Path, extensions: tuple[x509.ExtensionType, ...], host: str, reason: str | None
) -> None:
    found = list(verification_findings(_chain(tmp_path, *extensions, host=host)))

    assert [finding.serious for finding in found] == ([] if reason is None else [True])
    assert reason is None or reason in found[0].text


@pytest.mark.parametrize("host", ["a\0b.example.com", ".example.com", "a..example.com", "a." * 140 + "com", "a b"])
def test_a_name_that_no_client_asks_for_is_left_to_another_check(tmp_path: Path, host: str) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName(host)])

    assert list(verification_findings(_write(tmp_path, ec.generate_private_key(ec.SECP256R1()), names))) == []


def test_what_openssl_does_not_load_is_named_with_its_files(tmp_path: Path) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("xks.example.com")])
    tls = _write(tmp_path, ec.generate_private_key(ec.SECP256R1()), names)
    der = ssl.PEM_cert_to_DER_cert(Path(tls.certificate).read_text())
    damaged = der.replace(b"\x82\x0fxks.", b"\x82\x7fxks.", 1)
    Path(tls.certificate).write_text(ssl.DER_cert_to_PEM_cert(damaged))

    reason = (
        f"server.tls: {tls.certificate} with {tls.private_key} does not load: an extension of a certificate is damaged"
        " (INVALID_CERTIFICATE); expected certificates and a key that this machine's OpenSSL accepts"
    )
    with pytest.raises(ConfigError) as raised:
        build_context(tls)
    assert str(raised.value) == reason
    with pytest.raises(ConfigError) as raised, TlsContents.read(tls).as_files(tls) as in_memory:
        build_context(in_memory)
    assert str(raised.value) == reason


def test_a_certificate_without_a_dns_name_is_left_to_another_check(tmp_path: Path) -> None:
    assert list(verification_findings(_write(tmp_path, ec.generate_private_key(ec.SECP256R1())))) == []
