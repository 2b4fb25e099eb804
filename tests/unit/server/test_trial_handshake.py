"""A TLS context is tried before it is used."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Tls
from xksproxy.server.tls import build_context

_TRY = """
import sys
from pathlib import Path
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Tls
from xksproxy.server.tls import build_context
try:
    build_context(Tls(certificate=sys.argv[1], private_key=sys.argv[2]))
except ConfigError as error:
    sys.exit(str(error))
"""


def _write(directory: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Tls:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(1))
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
