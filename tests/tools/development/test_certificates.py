"""The development certificate authority and what it issues."""

import os
import ssl
from collections.abc import Iterator
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


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A process that takes no permission away by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, object]:
    """A whole TLS handshake in memory; what the server sees of the client's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [here, there]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    return dict(there.getpeercert() or {})


def _server_context(directory: Path, certificate: bytes, key: bytes) -> ssl.SSLContext:
    (directory / "server.pem").write_bytes(certificate)
    (directory / "server-key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
    return context


def _client_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=certificates.certificate_pem(authority.certificate).decode())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "proxy.example.com"])
def test_a_server_certificate_serves_each_of_its_names(authority: Authority, tmp_path: Path, name: str) -> None:
    issued = certificates.issue(authority, "any", hosts=("localhost", "127.0.0.1", "::1", "proxy.example.com"))

    _shake_hands(_server_context(tmp_path, *issued), _client_context(authority), name)


@pytest.mark.parametrize("name", ["example.com", "127.0.0.2", "any"])
def test_a_server_certificate_serves_no_other_name(authority: Authority, tmp_path: Path, name: str) -> None:
    server = _server_context(tmp_path, *certificates.issue(authority, "any", hosts=("localhost", "127.0.0.1")))

    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, _client_context(authority), name)


def test_a_certificate_of_another_authority_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    server = _server_context(tmp_path, *certificates.issue(authority, "any", hosts=("localhost",)))

    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, _client_context(certificates.create_authority("test CA")), "localhost")


def test_a_client_certificate_shows_its_common_name(authority: Authority, tmp_path: Path) -> None:
    # R-TLS-9: KMS comes with such a name.
    name = "cks.kms.eu-west-1.amazonaws.com"
    server = _server_context(tmp_path, *certificates.issue(authority, "any", hosts=("localhost",)))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=certificates.certificate_pem(authority.certificate).decode())
    client = _client_context(authority)
    certificate, key = certificates.issue(authority, name, client=True)
    (tmp_path / "client.pem").write_bytes(certificate + key)
    client.load_cert_chain(tmp_path / "client.pem")

    assert _shake_hands(server, client, "localhost")["subject"] == ((("commonName", name),),)


@pytest.mark.parametrize(
    ("client", "purpose"), [(False, ExtendedKeyUsageOID.SERVER_AUTH), (True, ExtendedKeyUsageOID.CLIENT_AUTH)]
)
def test_a_certificate_is_for_servers_or_for_clients_and_issues_none(
    authority: Authority, client: bool, purpose: x509.ObjectIdentifier
) -> None:
    issued = x509.load_pem_x509_certificate(certificates.issue(authority, "name", client=client)[0])

    extensions = issued.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    issued.verify_directly_issued_by(authority.certificate)


def test_the_authority_issues_leaves_only(authority: Authority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_every_certificate_has_a_key_of_its_own(authority: Authority) -> None:
    assert certificates.issue(authority, "a")[1] != certificates.issue(authority, "a")[1]


@pytest.mark.parametrize(("days", "expected"), [(0, True), (1, True), (29, True), (31, False), (397, False)])
def test_a_certificate_needs_renewal_in_its_last_thirty_days(authority: Authority, days: int, expected: bool) -> None:
    certificate, _ = certificates.issue(authority, "name", days=days)

    assert certificates.needs_renewal(certificate) is expected


def test_a_new_certificate_needs_no_renewal_and_ends_before_its_authority(authority: Authority) -> None:
    certificate = certificates.issue(authority, "name")[0]

    assert not certificates.needs_renewal(certificate)
    issued = x509.load_pem_x509_certificate(certificate)
    assert issued.not_valid_after_utc < authority.certificate.not_valid_after_utc


def test_an_authority_is_read_back_from_its_files(authority: Authority) -> None:
    read = certificates.load_authority(
        certificates.certificate_pem(authority.certificate), certificates.private_key_pem(authority.private_key)
    )

    issued = x509.load_pem_x509_certificate(certificates.issue(read, "name")[0])
    issued.verify_directly_issued_by(authority.certificate)


def test_what_is_no_authority_is_not_read_as_one(authority: Authority) -> None:
    certificate = certificates.certificate_pem(authority.certificate)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_key = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for key in (rsa_key, b"", b"nonsense"):
        with pytest.raises(ValueError, match=r".+"):
            certificates.load_authority(certificate, key)
    with pytest.raises(ValueError, match=r".+"):
        certificates.load_authority(b"nonsense", certificates.private_key_pem(authority.private_key))


def test_a_private_file_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path, open_umask: None) -> None:
    certificates.write_private(tmp_path / "key", b"content")

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_bytes() == b"content"


def test_a_file_that_was_open_to_all_is_closed_when_a_private_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("something longer than what comes now")
    path.chmod(0o666)

    certificates.write_private(path, b"content")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"content"
