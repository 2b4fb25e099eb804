"""Naming the key store of any proxy: URL, path, credential, and what TLS needs."""

import json
import os
import ssl
from pathlib import Path

import pytest
from xksproxy_tools.development.certificates import certificate_pem, create_authority, issue, write_private

from xksproxy.client.target import Target, TargetError, parse_endpoint, parse_uri_path, read_credential
from xksproxy.config.credentials import save_credential
from xksproxy.keystore.kms_config import console_json
from xksproxy.sigv4.keyring import Credential, generate_credential

CREDENTIAL = Credential("A" * 26, "s" * 43)


def target(**changes: object) -> Target:
    settings = {"host": "xks.example.com", "port": 443, "path_prefix": "/eu", "region": "eu-west-1", **changes}
    return Target(credential=CREDENTIAL, **settings)


@pytest.mark.parametrize(
    ("endpoint", "host", "port"),
    [
        ("https://xks.example.com", "xks.example.com", 443),
        ("https://xks.example.com/", "xks.example.com", 443),
        ("https://localhost:8443", "localhost", 8443),
        ("https://127.0.0.1:1", "127.0.0.1", 1),
        ("https://[::1]:65535", "::1", 65535),
    ],
)
def test_an_endpoint_is_host_and_port(endpoint: str, host: str, port: int) -> None:
    assert parse_endpoint(endpoint) == (host, port)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "xks.example.com",
        "http://xks.example.com",
        "https://",
        "https://xks.example.com:0",
        "https://xks.example.com:65536",
        "https://xks.example.com:",
        "https://user@xks.example.com",
        "https://xks.example.com/kms/xks/v1",
        "https://xks example.com",
        "https://xks.example.com\n",
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_was_expected(endpoint: str) -> None:
    with pytest.raises(TargetError, match=r"expected https://host or https://host:port"):
        parse_endpoint(endpoint)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/kms/xks/v1", ""),
        ("/kms/xks/v1/", ""),
        ("/eu/kms/xks/v1", "/eu"),
        ("/a/b-c_d/kms/xks/v1", "/a/b-c_d"),
        ("/kms/xks/v1/kms/xks/v1", "/kms/xks/v1"),
    ],
)
def test_the_prefix_is_what_precedes_the_base(path: str, prefix: str) -> None:
    assert parse_uri_path(path) == prefix


@pytest.mark.parametrize(
    "path", ["", "/", "/eu", "eu/kms/xks/v1", "/kms/xks/v2", "/e.u/kms/xks/v1", f"/{'a' * 128}/kms/xks/v1"]
)
def test_a_path_that_kms_would_refuse_is_refused(path: str) -> None:
    """R-URI-2."""
    with pytest.raises(TargetError, match=r"is not the path of a key store; expected \[/<prefix>\]/kms/xks/v1"):
        parse_uri_path(path)


def test_the_authority_leaves_out_the_default_port() -> None:
    assert target().authority == "xks.example.com"
    assert target(port=8443).authority == "xks.example.com:8443"
    assert target(host="::1", port=8443).authority == "[::1]:8443"


def test_the_endpoint_is_what_the_client_takes() -> None:
    endpoint = target(port=8443).endpoint

    assert (endpoint.host, endpoint.prefix, endpoint.region) == ("xks.example.com:8443", "/eu", "eu-west-1")
    assert endpoint.credential == CREDENTIAL


def test_a_credential_is_read_from_the_files_that_the_proxy_and_the_console_have(tmp_path: Path) -> None:
    credential = generate_credential()
    own = save_credential(tmp_path, credential)
    console = tmp_path / "kms-console.json"
    write_private(console, console_json("/eu", credential).encode())
    bare = tmp_path / "credential.json"
    pair = {"AccessKeyId": credential.access_key_id, "RawSecretAccessKey": credential.secret_access_key}
    write_private(bare, json.dumps(pair).encode())

    assert [read_credential(file) for file in (own, console, bare)] == [credential] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"AccessKeyId": "A"}',
        b'{"AccessKeyId": "A", "RawSecretAccessKey": 1}',
        b'{"XksProxyAuthenticationCredential": "TOPSECRET"}',
        b"[" * 65_000,
    ],
)
def test_a_file_without_a_credential_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.json"
    write_private(file, content)

    with pytest.raises(TargetError, match=r"expected a .* of `credentials create` or the JSON") as caught:
        read_credential(file)

    assert "TOPSECRET" not in str(caught.value)


@pytest.mark.parametrize("name", ["credential.json", "credential.toml"])
def test_a_credential_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("{}")
    file.chmod(0o644)

    with pytest.raises(TargetError, match=os.fspath(file)):
        read_credential(file)


def test_the_context_trusts_the_given_authority_alone(tmp_path: Path) -> None:
    authority = create_authority("an authority")
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate_pem(authority.certificate))

    context = target(ca=file).context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [dict(part[0] for part in one["subject"]) for one in context.get_ca_certs()] == [
        {"commonName": "an authority"}
    ]


def test_a_client_certificate_and_its_key_may_be_one_file_or_two(tmp_path: Path) -> None:
    certificate, key = issue(create_authority("an authority"), "client", client=True)
    both, apart, key_file = (tmp_path / name for name in ("both.pem", "apart.pem", "key.pem"))
    both.write_bytes(certificate + key)
    apart.write_bytes(certificate)
    key_file.write_bytes(key)

    target(client_certificate=both).context()
    target(client_certificate=apart, client_key=key_file).context()
    with pytest.raises(TargetError, match=r"apart\.pem.*expected a certificate and its private key in PEM"):
        target(client_certificate=apart).context()


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(TargetError, match=r"ca\.pem: .*; expected CA certificates in PEM"):
        target(ca=file).context()


def test_no_text_of_a_target_shows_the_secret() -> None:
    assert CREDENTIAL.secret_access_key not in repr(target())
