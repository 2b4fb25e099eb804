"""The development certificate authority and its certificates."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from xksproxy_tools.development import certificates
from xksproxy_tools.development.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return certificates.create_authority("test CA")


@pytest.mark.parametrize(
    ("client", "purpose"), [(False, ExtendedKeyUsageOID.SERVER_AUTH), (True, ExtendedKeyUsageOID.CLIENT_AUTH)]
)
def test_a_certificate_is_for_servers_or_clients_has_its_own_key_and_issues_no_others(
    authority: Authority, client: bool, purpose: x509.ObjectIdentifier
) -> None:
    certificate, key = certificates.issue(authority, "name", client=client)

    issued = x509.load_pem_x509_certificate(certificate)
    assert list(issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not issued.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    issued.verify_directly_issued_by(authority.certificate)
    assert issued.not_valid_after_utc < authority.certificate.not_valid_after_utc
    assert key != certificates.issue(authority, "name", client=client)[1]


def test_the_authority_issues_end_entity_certificates_only(authority: Authority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


@pytest.mark.parametrize(("days", "expected"), [(0, True), (1, True), (29, True), (31, False), (397, False)])
def test_a_certificate_needs_renewal_in_its_last_thirty_days(authority: Authority, days: int, expected: bool) -> None:
    assert certificates.needs_renewal(certificates.issue(authority, "name", days=days)[0]) is expected


def test_another_kind_of_key_or_content_is_not_loaded_as_an_authority(authority: Authority) -> None:
    certificate = certificates.certificate_pem(authority.certificate)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_key = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own_key = certificates.private_key_pem(authority.private_key)
    for pem, key in ((certificate, rsa_key), (certificate, b""), (certificate, b"nonsense"), (b"nonsense", own_key)):
        with pytest.raises(ValueError, match=r".+"):
            certificates.load_authority(pem, key)


def test_a_private_file_replaces_a_longer_one_and_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("something longer than the new content")
    path.chmod(0o666)

    certificates.write_private(path, b"content")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"content"
