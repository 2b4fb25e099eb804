"""Certificates as KMS will look at them, each wrong in one way."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec.structs import replace

from xksproxy.config.certificate_checks import (
    certificate_findings,
    certificate_problems,
    certified_names,
    covers,
)
from xksproxy.config.findings import Finding
from xksproxy.config.model import Tls

_NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
_ROOT, _INTERMEDIATE, _SERVER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
_HOST = "xks.example.com"


def _certificate(
    name: str = _HOST,
    *,
    issuer: str = "Intermediate",
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = _SERVER,
    issuer_key: ec.EllipticCurvePrivateKey = _INTERMEDIATE,
    hosts: tuple[x509.GeneralName, ...] = (x509.DNSName(_HOST),),
    age: float = 1,
    days: float = 90,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.SERVER_AUTH,
) -> x509.Certificate:
    """A certificate that was issued ``age`` days ago for ``days`` days."""
    subject, issued_by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    start = _NOW - timedelta(days=age)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issued_by).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=days))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    else:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _intermediate(age: float = 1, days: float = 900) -> x509.Certificate:
    return _certificate(
        "Intermediate", issuer="Root", key=_INTERMEDIATE, issuer_key=_ROOT, hosts=(), age=age, days=days, purpose=None
    )


@pytest.fixture
def tls(tmp_path: Path) -> Callable[..., Tls]:
    """Write a chain and a key; what is at fault is for the test to say."""

    def write(*chain: x509.Certificate, key: ec.EllipticCurvePrivateKey = _SERVER, passphrase: bytes = b"") -> Tls:
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
        (tmp_path / "server.pem").write_bytes(pem)
        (tmp_path / "key.pem").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return Tls(certificate=str(tmp_path / "server.pem"), private_key=str(tmp_path / "key.pem"))

    return write


@pytest.fixture
def trusted_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts the root."""
    (tmp_path / "roots.pem").write_bytes(_root().public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))


def _texts(tls: Tls) -> list[str]:
    return [finding.text for finding in certificate_findings(tls, _NOW) if finding.serious]


@pytest.mark.usefixtures("trusted_root")
def test_a_sound_chain_has_no_findings(tls: Callable[..., Tls]) -> None:
    sound = tls(_certificate(), _intermediate())

    assert list(certificate_problems(sound)) == []
    assert list(certificate_findings(sound, _NOW)) == []


@pytest.mark.parametrize("purpose", [None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
def test_a_certificate_for_everything_is_one_for_servers(
    tls: Callable[..., Tls], purpose: x509.ObjectIdentifier | None
) -> None:
    assert _texts(tls(_certificate(purpose=purpose))) == []


def test_a_certificate_for_clients_is_wrong(tls: Callable[..., Tls]) -> None:
    (text,) = _texts(tls(_certificate(purpose=ExtendedKeyUsageOID.CLIENT_AUTH)))

    assert text == f"server.tls.certificate: {_HOST} is not for servers; expected serverAuth in its extended key usage"


def test_expired_and_future_certificates_of_a_chain_are_problems(tls: Callable[..., Tls]) -> None:
    # R-TLS-5
    assert _texts(tls(_certificate(age=91), _intermediate(age=901))) == [
        f"server.tls.certificate: {_HOST} expired on 2030-05-31 12:00 UTC",
        "server.tls.certificate: Intermediate expired on 2030-05-31 12:00 UTC",
    ]
    assert _texts(tls(_certificate(age=-1))) == [
        f"server.tls.certificate: {_HOST} is not valid before 2030-06-02 12:00 UTC"
    ]


@pytest.mark.usefixtures("trusted_root")
@pytest.mark.parametrize(
    ("days", "left", "soon"),
    [(90, 13.9, True), (90, 14.1, False), (397, 13.9, True), (397, 30, False), (6, 1.4, True), (6, 1.6, False)],
)
def test_a_certificate_near_its_end_is_a_warning(tls: Callable[..., Tls], days: float, left: float, soon: bool) -> None:
    findings = list(certificate_findings(tls(_certificate(age=days - left, days=days), _intermediate()), _NOW))

    assert [(finding.serious, "expires soon" in finding.text) for finding in findings] == [(False, True)] * soon


def test_a_chain_out_of_order_is_wrong(tls: Callable[..., Tls]) -> None:
    root = _certificate("Root", issuer="Root", key=_ROOT, issuer_key=_ROOT, hosts=(), days=9000, purpose=None)

    assert _texts(tls(_certificate(), _intermediate(), root)) == []
    assert len(_texts(tls(_certificate(), root, _intermediate()))) == 2


def test_an_issuer_of_the_right_name_with_another_key_did_not_issue_it(tls: Callable[..., Tls]) -> None:
    other = _certificate("Intermediate", issuer="Root", key=_ROOT, issuer_key=_ROOT, hosts=(), purpose=None)

    (text,) = _texts(tls(_certificate(), other))

    expected = f"server.tls.certificate: certificate number 2, Intermediate, did not issue number 1, {_HOST}"
    assert text.startswith(expected)


@pytest.mark.parametrize("hosts", [(), (x509.IPAddress(ip_address("192.0.2.1")),)])
def test_a_certificate_without_a_dns_name_is_wrong(
    tls: Callable[..., Tls], hosts: tuple[x509.GeneralName, ...]
) -> None:
    # R-TLS-4, R-URI-3
    (text,) = _texts(tls(_certificate(hosts=hosts)))

    assert "has no DNS name" in text


def test_a_self_signed_certificate_is_a_warning(tls: Callable[..., Tls]) -> None:
    # R-TLS-5: in a closed test that is no mistake.
    own = _certificate(issuer=_HOST, issuer_key=_SERVER)

    assert list(certificate_findings(tls(own), _NOW)) == [
        Finding.warning(f"server.tls.certificate: {_HOST} is self-signed; KMS trusts public CAs only")
    ]


def test_a_name_cannot_break_the_line(tls: Callable[..., Tls]) -> None:
    (text,) = _texts(tls(_certificate("a\nb\x1b[31m", hosts=())))

    assert text.isprintable()


def test_a_key_of_no_certificate_is_named(tls: Callable[..., Tls], tmp_path: Path) -> None:
    (problem,) = certificate_problems(tls(_certificate(), _intermediate(), key=_ROOT))

    assert problem == f"server.tls.private_key: {tmp_path / 'key.pem'} is not the key of the certificate {_HOST}"


def test_a_chain_in_the_wrong_order_is_distinguished_from_a_wrong_key(
    tls: Callable[..., Tls],
) -> None:
    (problem,) = certificate_problems(tls(_intermediate(), _certificate()))

    expected = f"server.tls.certificate: the key belongs to certificate number 2, {_HOST}; expected the server's"
    assert problem.startswith(expected)


def test_an_encrypted_key_is_distinguished_from_nonsense(tls: Callable[..., Tls], tmp_path: Path) -> None:
    encrypted = tls(_certificate(), passphrase=b"sesame")
    assert [problem.rpartition(": ")[2] for problem in certificate_problems(encrypted)] == [
        "it is encrypted; expected a key without a passphrase"
    ]
    (tmp_path / "key.pem").write_text("nonsense")
    (tmp_path / "server.pem").write_text("nonsense")

    assert [problem.rpartition(": ")[2] for problem in certificate_problems(encrypted)] == [
        "it holds no certificate in PEM",
        "it holds no unencrypted key in PEM",
    ]


@pytest.mark.parametrize("damaged", ["point", "algorithm"])
def test_a_certificate_whose_key_cannot_be_read_is_named(tls: Callable[..., Tls], tmp_path: Path, damaged: str) -> None:
    made = tls(_certificate())
    point = _SERVER.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    ec_key = bytes.fromhex("06072a8648ce3d0201")  # the object identifier of id-ecPublicKey
    old, new = (point, point[:-1] + bytes([point[-1] ^ 1])) if damaged == "point" else (ec_key, ec_key[:-1] + b"\x7f")
    der = _certificate().public_bytes(serialization.Encoding.DER)
    (tmp_path / "server.pem").write_text(ssl.DER_cert_to_PEM_cert(der.replace(old, new, 1)))

    assert list(certificate_problems(made)) == [
        f"server.tls.certificate: the key in {made.certificate} is damaged, or of a kind that cannot be read"
    ]
    assert list(certificate_findings(made, _NOW)) == []


def test_files_that_cannot_be_read_say_why(tls: Callable[..., Tls], tmp_path: Path) -> None:
    made = tls(_certificate())
    for name in ("server.pem", "key.pem"):
        (tmp_path / name).unlink()

    assert [problem.rpartition(": ")[2] for problem in certificate_problems(made)] == ["No such file or directory"] * 2
    assert list(certificate_findings(made, _NOW)) == []
    assert certified_names(made) == ()


@pytest.mark.parametrize(
    ("names", "covered"),
    [
        (("xks.example.com",), True),
        (("*.example.com",), True),
        (("*.com",), False),
        (("*.xks.example.com",), False),
        (("example.com",), False),
        ((), False),
    ],
)
def test_a_wildcard_matches_one_label(names: tuple[str, ...], covered: bool) -> None:
    assert covers(names, _HOST) is covered


def test_a_certificate_without_its_intermediate_is_a_warning(tls: Callable[..., Tls]) -> None:
    (finding,) = certificate_findings(tls(_certificate()), _NOW)

    assert not finding.serious
    assert finding.text.startswith(f"server.tls.certificate: no certificate follows {_HOST}; expected the intermediate")


def _root() -> x509.Certificate:
    return _certificate("Root", issuer="Root", key=_ROOT, issuer_key=_ROOT, hosts=(), days=9000, purpose=None)


def test_a_chain_that_ends_before_a_root_is_a_warning(
    tls: Callable[..., Tls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _certificate("Other", issuer="Other", key=_SERVER, issuer_key=_SERVER, hosts=())
    (tmp_path / "roots.pem").write_bytes(other.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))

    (finding,) = certificate_findings(tls(_certificate(), _intermediate()), _NOW)

    assert not finding.serious
    assert "Intermediate, the last certificate of the file, was issued by Root, which is neither" in finding.text
    assert list(certificate_findings(tls(_certificate(), _intermediate(), _root()), _NOW)) == []


def _cross_signed(age: float, days: float) -> x509.Certificate:
    """The same root, signed by an older one."""
    old = _INTERMEDIATE
    return _certificate("Root", issuer="Old", key=_ROOT, issuer_key=old, hosts=(), age=age, days=days, purpose=None)


@pytest.mark.parametrize(("age", "days"), [(900, 899), (899, 900)])
def test_an_expired_cross_signed_root_is_no_finding_if_another_path_is_valid(
    tls: Callable[..., Tls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, days: float
) -> None:
    chain = tls(_certificate(days=9), _intermediate(), _cross_signed(age, days))
    assert any("Root expire" in finding.text for finding in certificate_findings(chain, _NOW))

    (tmp_path / "roots.pem").write_bytes(_root().public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))

    assert not any("Root" in finding.text for finding in certificate_findings(chain, _NOW))


def test_an_expired_intermediate_is_a_problem_even_if_its_root_is_trusted(
    tls: Callable[..., Tls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots.pem").write_bytes(_root().public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))

    (text,) = _texts(tls(_certificate(), _intermediate(age=901)))

    assert text == "server.tls.certificate: Intermediate expired on 2030-05-31 12:00 UTC"


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())])
def test_a_key_that_kms_cannot_use_is_a_problem(tls: Callable[..., Tls], key: ec.EllipticCurvePrivateKey) -> None:
    (text,) = _texts(tls(_certificate(key=key), _intermediate(), key=key))

    assert "has a key that KMS cannot use; expected RSA, or ECDSA on P-256 or P-384" in text


@pytest.mark.usefixtures("trusted_root")
def test_must_staple_is_a_warning(tls: Callable[..., Tls]) -> None:
    builder = x509.CertificateBuilder().subject_name(_certificate().subject).issuer_name(_certificate().issuer)
    builder = builder.public_key(_SERVER.public_key()).serial_number(1)
    builder = builder.not_valid_before(_NOW - timedelta(1)).not_valid_after(_NOW + timedelta(90))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(_HOST)]), critical=False)
    builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)

    (finding,) = certificate_findings(tls(builder.sign(_INTERMEDIATE, hashes.SHA256()), _intermediate()), _NOW)

    assert not finding.serious
    assert "must-staple" in finding.text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda pem: pem[:-40], "certificate number 2 is cut off: it has no line -----END CERTIFICATE-----"),
        (lambda pem: pem.replace(b"\n", b"\n  "), "is indented; a PEM line begins at the start of its line"),
        (lambda pem: b"  " + pem, "line 1 is indented"),
        (lambda pem: b"\xef\xbb\xbf" + pem, "byte-order mark"),
        (lambda pem: pem.replace(b"-\n", b"--\n", 1), "line 1 does not end after -----BEGIN CERTIFICATE-----"),
        (lambda pem: pem.replace(b"MII", b"AII"), "certificate number 1 is damaged"),
        (lambda pem: x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER), "openssl x509"),
        (
            lambda pem: pkcs12.serialize_key_and_certificates(
                None, None, None, [x509.load_pem_x509_certificate(pem)], serialization.NoEncryption()
            ),
            "it is PKCS#12; convert it to PEM with: openssl pkcs12 -nokeys",
        ),
        (lambda pem: pem.replace(b" CERTIFICATE", b" PRIVATE KEY"), "no certificate in PEM; it holds a PRIVATE KEY"),
    ],
)
def test_a_damaged_certificate_is_named_as_what_it_is(
    tls: Callable[..., Tls], tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    made = tls(_certificate(), _intermediate())
    path = tmp_path / "server.pem"
    path.write_bytes(damage(path.read_bytes()))

    (problem,) = certificate_problems(made)

    assert problem.startswith(f"server.tls.certificate: {path}: ")
    assert reason in problem


def _write_der(tmp_path: Path, *changes: tuple[bytes, bytes], certificate: x509.Certificate) -> None:
    """Write a certificate in which some bytes are others."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    for old, new in changes:
        assert old in der
        der = der.replace(old, new, 1)
    (tmp_path / "server.pem").write_text(ssl.DER_cert_to_PEM_cert(der))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x44"),
        (b"\x0c\x0cIntermediate", b"\x00\x0cIntermediate"),
        (b"\x0c\x0fxks.", b"\x03\x0fxks."),
        (b"\x0c\x0fxks.", b"\x0c\x0f\xff\xff\xff\xff"),
    ],
    ids=["version", "issuer", "type of the subject", "subject"],
)
def test_a_certificate_with_a_damaged_field_is_named(
    tls: Callable[..., Tls], tmp_path: Path, old: bytes, new: bytes
) -> None:
    made = tls(_certificate())
    _write_der(tmp_path, (old, new), certificate=_certificate())

    assert list(certificate_problems(made)) == [
        f"server.tls.certificate: {made.certificate}: certificate number 1 is damaged and cannot be read"
    ]
    assert list(certificate_findings(made, _NOW)) == []


_LENGTH, _EDI_PARTY = b"\x82\x7fxks.", b"\xa5\x0fxks."
_TWICE = b"\x06\x03\x55\x1d\x25", b"\x06\x03\x55\x1d\x11"  # extendedKeyUsage, subjectAltName


@pytest.mark.parametrize(
    ("name", "shown", "damage"),
    [
        (_HOST, _HOST, (b"\x82\x0fxks.", _LENGTH)),
        ("", "without a name", (b"\x82\x0fxks.", _LENGTH)),
        (_HOST, _HOST, (b"\x82\x0fxks.", _EDI_PARTY)),
        (_HOST, _HOST, _TWICE),
    ],
    ids=["length", "without a name", "kind of name", "twice"],
)
def test_a_certificate_with_extensions_that_cannot_be_read_is_a_warning(
    tls: Callable[..., Tls], tmp_path: Path, name: str, shown: str, damage: tuple[bytes, bytes]
) -> None:
    made = tls(_certificate())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = _bare(None, x509.SubjectAlternativeName([x509.DNSName(_HOST)]), purpose)
    named = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder._subject_name = x509.Name(named)
    certificate = builder.sign(_INTERMEDIATE, hashes.SHA256())
    _write_der(tmp_path, damage, certificate=certificate)

    (finding,) = certificate_findings(made, _NOW)

    assert not finding.serious
    assert f"{shown} has extensions that cannot be read" in finding.text


def test_a_name_that_breaks_a_rule_of_x509_is_no_warning_of_python(tls: Callable[..., Tls], tmp_path: Path) -> None:
    made = tls(_certificate())
    country = b"\x06\x03\x55\x04\x06"
    _write_der(tmp_path, (b"\x06\x03\x55\x04\x03", country), certificate=_certificate())

    assert list(certificate_problems(made)) == []
    assert not any("cannot be read" in finding.text for finding in certificate_findings(made, _NOW))


@pytest.mark.usefixtures("trusted_root")
def test_a_chain_that_never_expires_has_no_findings(tls: Callable[..., Tls]) -> None:
    days = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - (_NOW - timedelta(1))) / timedelta(1)

    assert list(certificate_findings(tls(_certificate(days=days), _intermediate(days=days)), _NOW)) == []


def test_an_issuer_whose_key_cannot_be_read_did_not_issue(tls: Callable[..., Tls], tmp_path: Path) -> None:
    made = tls(_certificate())
    leaf = (tmp_path / "server.pem").read_bytes()
    ec_key = bytes.fromhex("06072a8648ce3d0201")
    _write_der(tmp_path, (ec_key, ec_key[:-1] + b"\x7f"), certificate=_intermediate())
    (tmp_path / "server.pem").write_bytes(leaf + (tmp_path / "server.pem").read_bytes())

    (text,) = _texts(made)

    assert "certificate number 2, Intermediate, did not issue number 1" in text


def test_a_root_of_this_machine_that_cannot_be_read_is_passed_over(
    tls: Callable[..., Tls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_der(tmp_path, (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x44"), certificate=_root())
    (tmp_path / "server.pem").rename(tmp_path / "roots.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))

    assert _texts(tls(_certificate(), _intermediate())) == []


_ONLY_BASE64 = "between its BEGIN and END lines PEM has lines of Base64 only"


def _insert_in_line_2(character: str, pem: str) -> str:
    return pem.replace("\nM", f"\nM{character}", 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda pem: "    " + pem, "line 1 is indented; a PEM line begins at the start of its line"),
        # `cryptography` loads this file, and OpenSSL does not.
        (lambda pem: pem[:-1] + "-\n", "line 5 does not end after -----END PRIVATE KEY-----"),
        *(
            (partial(_insert_in_line_2, character), f"line 2 has the character U+{ord(character):04X}; {_ONLY_BASE64}")
            for character in "\u2028\x85\xa0\v\f"
        ),
        (lambda pem: pem.replace("\n", "\n\n", 1), f"line 2 is blank; {_ONLY_BASE64}"),
        (lambda pem: pem.replace("\n-----END", "\n \r\n-----END"), f"line 5 is blank; {_ONLY_BASE64}"),
    ],
)
def test_a_damaged_key_is_named_as_what_it_is(
    tls: Callable[..., Tls], tmp_path: Path, damage: Callable[[str], str], reason: str
) -> None:
    made = tls(_certificate(), _intermediate())
    path = tmp_path / "key.pem"
    path.write_text(damage(path.read_text()), newline="")

    assert list(certificate_problems(made)) == [f"server.tls.private_key: {path}: {reason}"]


def _bare(key: rsa.RSAPrivateKey | None = None, *extensions: x509.ExtensionType) -> x509.CertificateBuilder:
    name = _certificate().subject
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(_intermediate().subject).serial_number(1)
    builder = builder.public_key((key or _SERVER).public_key())
    builder = builder.not_valid_before(_NOW - timedelta(1)).not_valid_after(_NOW + timedelta(90))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder


def test_an_rsa_key_that_is_too_short_is_named_with_its_size(tls: Callable[..., Tls]) -> None:
    key = rsa.generate_private_key(65537, 1024)
    chain = tls(_bare(key).sign(_INTERMEDIATE, hashes.SHA256()), _intermediate(), key=key)

    (problem,) = certificate_problems(chain)

    assert problem.endswith("has an RSA key of 1024 bits; expected at least 2048")


@pytest.mark.parametrize(("signs", "problems"), [(True, 0), (False, 1)])
def test_a_key_usage_without_signatures_is_a_problem(tls: Callable[..., Tls], signs: bool, problems: int) -> None:
    others = dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign"), False)
    others |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(digital_signature=signs, key_encipherment=True, **others)
    names = x509.SubjectAlternativeName([x509.DNSName(_HOST)])

    texts = _texts(tls(_bare(None, usage, names).sign(_INTERMEDIATE, hashes.SHA256()), _intermediate()))

    assert len([text for text in texts if "lacks digitalSignature" in text]) == problems


@pytest.mark.usefixtures("trusted_root")
@pytest.mark.parametrize(
    ("names", "possible"),
    [
        (("xks.example.com",), True),
        (("*.example.com",), True),
        (("localhost",), True),
        (("*", "a.b.example.com"), True),
        (("*",), False),
        (("*.com",), False),
        (("x*.example.com",), False),
        (("*.*.example.com",), False),
        (("xks_1.example.com", "1.2.3.4"), False),
    ],
)
def test_names_that_no_endpoint_can_have_are_a_warning(
    tls: Callable[..., Tls], names: tuple[str, ...], possible: bool
) -> None:
    certificate = _certificate(hosts=tuple(x509.DNSName(name) for name in names))

    found = list(certificate_findings(tls(certificate, _intermediate()), _NOW))

    assert [finding.serious for finding in found] == ([] if possible else [False])
    assert possible or f"no endpoint of KMS can have a name like {', '.join(names)};" in found[0].text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "certificate number 1 is cut off"),
        (
            _SERVER.private_bytes(
                *(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8), serialization.NoEncryption()
            ),
            "it is in DER",
        ),
    ],
    ids=["empty", "cut off", "DER"],
)
def test_a_ca_for_clients_that_does_not_load_is_named_as_what_it_is(
    tls: Callable[..., Tls], tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    mutual = replace(tls(_certificate(), _intermediate()), client_ca=str(tmp_path / "ca.pem"), client_names=("kms",))

    (problem,) = certificate_problems(mutual)

    assert problem.startswith(f"server.tls.client_ca: {tmp_path / 'ca.pem'}: {reason}")
