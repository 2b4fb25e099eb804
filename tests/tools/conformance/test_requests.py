"""Signed requests, and signatures with one wrong part."""

from dataclasses import replace

import pytest
from xksproxy_tools.conformance.requests import Request, Signer

from xksproxy.sigv4.canonical import HttpRequest, group_headers
from xksproxy.sigv4.keyring import Credential, Keyring
from xksproxy.sigv4.verify import verify
from xksproxy.spec.errors import AuthenticationFailedException

CREDENTIAL = Credential("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")
AT = 1715774400.0
BODY = b'{"requestMetadata":{"kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsOperation":"KmsHealthCheck"}}'
SIGNER = Signer(CREDENTIAL, "us-east-1")
REQUEST = Request(
    "/example/uri/path/prefix/kms/xks/v1/health",
    (("Host", "xks.example.com"), ("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))),
    BODY,
)


@pytest.mark.parametrize(
    ("names", "signature"),
    [
        (("host", "x-amz-date"), "293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4"),
        (("content-type", "host", "x-amz-date"), "e596c1d1e0b4f61cc8561f0bd70c480890d5caa55115d60c888a56126874c89c"),
    ],
)
def test_the_signature_equals_the_published_vector(names: tuple[str, ...], signature: str) -> None:
    signed = replace(SIGNER, signed_headers=names).sign(REQUEST, AT)

    assert signed.header("x-amz-date") == "20240515T120000Z"
    assert signed.header("authorization") == (
        "AWS4-HMAC-SHA256 Credential=BETWEEN2TENAND3TENCHARACTERS/20240515/us-east-1/kms-xks-proxy/aws4_request,"
        f" SignedHeaders={';'.join(names)}, Signature={signature}"
    )


def received(request: Request) -> HttpRequest:
    return HttpRequest(request.method, request.target, group_headers(request.header_lines()), request.body)


def test_a_signed_request_is_verified() -> None:
    verify(received(SIGNER.sign(REQUEST, AT)), Keyring([CREDENTIAL]), AT)


@pytest.mark.parametrize(
    "signer",
    [
        replace(SIGNER, service="kms"),
        replace(SIGNER, terminator="aws5_request"),
        replace(SIGNER, date="20240514"),
        replace(SIGNER, signed_headers=("host",)),
        replace(SIGNER, credential=Credential("UNKNOWN", CREDENTIAL.secret_access_key)),
    ],
)
def test_each_part_can_be_signed_wrongly(signer: Signer) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify(received(signer.sign(REQUEST, AT)), Keyring([CREDENTIAL]), AT)


def test_a_request_is_written_as_it_is_given() -> None:
    assert REQUEST.with_body(b"{}").encode() == (
        b"POST /example/uri/path/prefix/kms/xks/v1/health HTTP/1.1\r\nHost: xks.example.com\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_headers_are_replaced_in_their_place_added_and_removed() -> None:
    changed = REQUEST.with_header("content-type", "text/plain").with_header("X-More", "1").without_header("HOST")

    assert changed.headers == (("content-type", "text/plain"), ("Content-Length", "107"), ("X-More", "1"))
    assert changed.header("x-more") == "1"
